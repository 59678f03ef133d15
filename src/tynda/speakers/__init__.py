"""People told apart by their voices: enrolment, identification, strangers refused."""
