"""What several tests share: real servers, recorded traffic, and paths."""
