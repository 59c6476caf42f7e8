-- Which redrives have a letter, and which have had it: looked up for each letter that is shown.

CREATE INDEX redrive_letter_of ON evkit.redrive_letter (letter_id);
