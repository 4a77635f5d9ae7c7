"""The exercises: in each folder a page to read, a solution, and what is checked."""
