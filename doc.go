// Package hypervisor isolates the sessions of AI agents and enforces how they may act: a call is admitted or refused by the
// session's rules, recorded before it is dispatched, its outcome recorded after, and anyone can verify the log.
//
// Open makes a [Hypervisor] on an embedded store, or in memory. CreateSession, Join and Activate set the scene; Register
// names what can be done; Act asks for it:
//
//	hv, err := hypervisor.Open(ctx, nil)
//	admin := policy.Operator("did:mesh:admin")
//	s, err := hv.CreateSession(ctx, admin, &session.Config{MaxParticipants: 5})
//	p, err := s.Join(ctx, admin, session.Join{Agent: "did:mesh:ann", Sigma: ring.MustSigma("0.85")})
//	err = s.Activate(ctx, admin)
//	s.Register(action.Descriptor{ID: "draft_email", Reversibility: action.Partial}, draftEmail)
//	out, err := s.Act(ctx, policy.Agent("did:mesh:ann"), session.Act{Action: "draft_email", Args: args})
//	sum, err := s.Terminate(ctx, admin)
//
// A refusal is a value and a record, not an error: look at [Outcome].Allowed, Code and Reason. An error says that nothing could
// be decided or recorded.
//
// Hypervisor and Session are handles: they do I/O, take a context, and are safe for concurrent use. Everything they decide
// is decided by the pure package session, whose State is data. Hypervisor is the only caller of its Decide: each command takes
// a place in the queue, the session's lock, is decided, applied, handed to the committer in order, and is answered once its
// record is durable.
package hypervisor
