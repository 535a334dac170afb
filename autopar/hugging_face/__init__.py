"""Models that a folder of Hugging Face's ``save_pretrained`` says: built from its configuration, their weights read by slices."""
