// Package client talks to hypervisors over /v1: on a control socket, or over HTTP with a token.
//
// [Find] returns the hypervisors a user means: that of one data directory, or those that run under the user's state directory,
// or the one at an address. With several, [Merge] lists over all of them and [One] asks all for one thing.
//
// A [Client] is a handle: it does I/O, takes a context and is safe for concurrent use. The package imports api and nothing else
// of the project.
package client
