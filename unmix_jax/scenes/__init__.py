"""What data? Scenes, libraries, readers, datasets."""
