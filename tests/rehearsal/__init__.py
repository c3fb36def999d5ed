"""`make rehearsal`: the whole chain at its real width on a machine without a GPU, as a user would type it."""
