"""What the shapes are made of: users, what they check, what is judged."""
