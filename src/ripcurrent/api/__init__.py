"""The functions that chain the rooms, as the command line and ``import ripcurrent`` offer them."""
