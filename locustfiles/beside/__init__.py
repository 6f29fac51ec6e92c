"""What runs beside a load: samples of the service, a lone reader; and what is made of it all.

Invariant: nothing here imports locust, which is another process.
"""
