"""What supervised and preference training are made of."""
