"""The one MQTT connection."""
