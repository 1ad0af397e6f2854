"""The face of the project: commands, the recipe runner and the report."""
