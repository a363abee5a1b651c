"""The agreements that data is shared under, as typed objects, and the labels made from them."""
