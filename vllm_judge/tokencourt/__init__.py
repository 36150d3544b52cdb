"""TokenCourt: from questions to labelled answers, the data that a judge head is fitted on."""
