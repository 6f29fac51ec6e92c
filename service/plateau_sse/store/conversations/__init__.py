"""What has been said under one conversation id, cut to what an agent is given of it."""
