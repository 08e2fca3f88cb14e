"""The private side: records, their stored embeddings, votes and sums over them. What leaves goes through release."""
