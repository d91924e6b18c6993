"""The queues that chatrelay is measured against, and chatrelay itself: one file each, all of one shape."""
