"""The images of a run: readers, split, batches and augmentation."""
