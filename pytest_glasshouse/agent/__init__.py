"""What runs on the guest for as long as the box does: it measures, starts legs, keeps what they say, and signs."""
