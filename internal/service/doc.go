// Package service is a service over HTTP that is asked about agents: with a timeout, an expiring cache and a breaker (SPEC §9).
//
// It sends, bounds, remembers and leaves alone. What is asked, what an answer means and what follows is for who asks: packages
// reputation and watcher. It is not how an agent's calls go out: those reach what an agent names, through a guard (package
// address); this reaches what the operator names. It imports nothing of ours.
package service
