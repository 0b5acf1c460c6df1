// Package feed tells followers of the log that it has grown.
//
// It holds no records: every follower reads the log itself from where it stood, so a slow one holds up nobody, one that was
// away resumes by position, and nothing is delivered that is not in the log. It imports nothing of ours.
package feed
