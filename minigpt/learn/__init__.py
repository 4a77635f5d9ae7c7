"""Learn it by building it: exercises, and checks that say by behaviour what is right and which mistake was made."""
