"""What is set aside by rule, judge or person: pictures in, verdicts and drawings out."""
