"""Message classes made from protos/open_inference.proto; tests regenerate and compare them."""
