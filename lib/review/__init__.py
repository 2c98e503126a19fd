"""A person looks: a run's screened pictures in, decisions out, on a page of this machine or in a label tool."""
