"""What those who keep it running look at."""
