// Package saga is the theory of sagas (SPEC §5): several actions that end either all done or undone.
//
//	d, err := saga.ParseYAML("release.yaml", text) // every fault with its place
//	p := saga.NewPlan(d, natures)
//	r := p.Start()
//	for _, e := range p.Next(r, now) { // what follows by itself: steps to begin, groups resolved, the turn, the end
//		r.Apply(e)
//	}
//	events := p.Settle(r, answer, now, random) // what an answer means
//
// A Definition is what somebody wrote: steps with what they need, fan-out groups, checkpoints. A Plan is a sound definition with
// what is known of its actions. A Run is where one saga stands. All three are values; a Run is changed by Apply alone, which
// decides nothing, so that a log of events gives the same Run again.
//
// It does not know sessions, calls, clocks or stores: see package session. It may import policy, action and ring below it, and
// internal/document to read definitions. Nothing in it is safe for concurrent use while it is changed.
package saga
