"""What features are about."""

from feast import Entity, ValueType

machine = Entity(
    name="machine",
    join_keys=["machine_id"],
    value_type=ValueType.STRING,
    description="One machine of a fleet, by the id that its own records give it",
    owner="maintenance-planning",
    tags={"fleet": "every"},
)
