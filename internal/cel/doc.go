// Package cel evaluates an operator's rules, written in the Common Expression Language (cel.dev), on a call. It implements
// policy.Rules.
//
// A rule sees these names and no others:
//
//	agent     string     the caller's DID
//	action    .id .name .read_only .admin .reversibility ("full", "partial", "none") .idempotent .network .files .subprocess .resource
//	args      map        the call's arguments, as decoded once at the door
//	resource  string     what the call touches, normalised; resource.under("/prod") asks for whole path segments
//	session   string     the session's id
//	ring      int        the caller's ring, 0 to 3
//	sigma     double     the caller's σ_eff
//	now       timestamp  when the call is decided
//
// The strongest effect wins: deny over require_approval over none. A rule that cannot be evaluated, or costs more than
// maxCost, denies: write the cheap guard first (action.id == "…" && args.path …), for CEL's && is false if either side is.
//
// σ is a whole number of millionths and becomes the double nearest to it, which is also what a literal of at most six
// places becomes, and distinct millionths stay distinct and in order. So sigma > 0.6 is exact; sums of literals are not.
//
// It is not where rules come from (package internal/config reads them) nor what is done with a verdict (package session).
// It may import policy, action, ring and cel-go. It reads no clock and has no side effects; a value is safe for
// concurrent use.
package cel
