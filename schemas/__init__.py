"""The contracts between the rooms, and the disk they stand on."""
