"""What the queue costs. Every figure stands next to one of something else, measured in the same run."""
