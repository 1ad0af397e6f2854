from pathlib import Path

from schemas.recipe import Recipe
from sluice.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_page_is_the_one_that_the_schema_gives():
    assert PAGE.read_text() == reference(), "run `make docs`"


def test_every_key_of_the_schema_is_on_the_page():
    page = reference()

    def keys(schema):
        for definition in [schema, *schema.get("$defs", {}).values()]:
            yield from definition.get("properties", {})

    for key in keys(Recipe.model_json_schema()):
        assert f"| `{key}` |" in page
