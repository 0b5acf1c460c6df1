// Package scenario runs scripts of commands beside the traces that they must give. It is for tests, and knows nothing of what it runs.
//
// A script is a text of blocks: commands, a line "----", and the trace up to the next empty line. A line of "====" begins anew, one
// that begins with # is for the reader. With -update the traces are written as they are now; the difference is reviewed as behaviour.
// It imports nothing of ours.
package scenario
