"""People in photos: where a detector finds them."""
