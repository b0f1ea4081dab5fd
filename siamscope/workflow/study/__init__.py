"""Studies: many runs that differ in one or two things at equal steps, with tables, verdicts and one page each."""
