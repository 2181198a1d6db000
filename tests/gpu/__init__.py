"""What a GPU says of this project: is it right, how fast is it, and a first training (`make gpu`)."""
