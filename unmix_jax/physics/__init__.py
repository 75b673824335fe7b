"""What does light do? Sensor response; mixing models follow."""
