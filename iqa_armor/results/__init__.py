"""What evaluating and certifying found as plain values, their JSON and files, and requirements on them."""
