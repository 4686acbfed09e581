"""MAmmoTH2: a pool of questions and answers mined from web pages."""
