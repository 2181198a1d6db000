"""What a GPU says of this project: is it right, how fast is it, and a first training (`make gpu`)."""

FASTEST = "fastest.txt"
"""In the folder of the results: the settings of the fastest training that is right."""
