"""How many workers a load needs: a simulated fleet, fed with measured or estimated step times."""
