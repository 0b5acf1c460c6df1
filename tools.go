package hypervisor

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// tools.go: what can be done in a session, and what does it.

// A Tool is an action that can be done in a session, and what does it.
type Tool struct {
	Descriptor action.Descriptor
	Do         action.Func
	// Check says what is wrong with a call's arguments. Nil: any JSON object will do.
	Check func(args map[string]any) error
	// Prompt says that Do returns as soon as its context ends, whatever it waits for. Then whoever waits in Act for its outcome
	// calls it, where otherwise a goroutine of the hypervisor's does: a function that ignored its context would hold its caller.
	Prompt bool
	// Changed says that the tool's definition is not the one that was pinned: its calls are refused until that is accepted.
	Changed bool
	// Server is whose tool it is: what its descriptor's image, undo and probe call are tools of the same, Server.tool, and what
	// it touches is recorded as Server:resource. Empty: a tool of the embedding program's, whose calls name whole ids.
	Server string
	// Answers returns why what the undo calls does not answer, for an action that has no image whose taking would show it. Nil:
	// it always does.
	Answers func(context.Context) error
	// Reaches returns why a call of the tool would reach nobody. It is asked while a saga's step waits for that. Nil: whether it
	// does is found out by calling it.
	Reaches func(context.Context) error
}

// A handler is a Tool as it is kept for each agent: small, since there may be a thousand agents.
type handler struct {
	*described
	Do      action.Func
	Check   func(args map[string]any) error
	Answers func(context.Context) error
	Reaches func(context.Context) error
	Server  string
	Prompt  bool
	Changed bool
}

// A described is a descriptor with its digest. It is not written to: agents share it.
type described struct {
	Descriptor action.Descriptor
	digest     audit.Hash
}

// maxDescribed bounds the descriptors a session remembers to share.
const maxDescribed = 4096

// Register names an action and what does it. A bad descriptor, or one registered twice, panics, as http.Handle does.
func (s *Session) Register(d action.Descriptor, do action.Func) {
	h, err := (&Tool{Descriptor: d, Do: do}).prepare()
	if err != nil {
		panic("hypervisor: " + err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tools[""][d.ID] != nil {
		panic(fmt.Sprintf("hypervisor: action %s is registered twice", d.ID))
	}
	s.keepTools("", []handler{h})
}

// SetTools replaces an agent's tools whose ids begin with prefix: a server's, when its list is read anew. The zero agent's are
// everybody's; an agent's own come first. It returns the first bad descriptor's error and then changes nothing.
func (s *Session) SetTools(agent policy.DID, prefix string, tools []Tool) error {
	next := make([]handler, len(tools))
	for i := range tools {
		var err error
		if next[i], err = tools[i].prepare(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.tools[agent], func(id string, _ *handler) bool { return strings.HasPrefix(id, prefix) })
	s.keepTools(agent, next)
	return nil
}

// keepTools adds to an agent's tools. The lock is held.
func (s *Session) keepTools(agent policy.DID, tools []handler) {
	if s.tools == nil {
		s.tools = map[policy.DID]map[string]*handler{}
	}
	if s.tools[agent] == nil {
		s.tools[agent] = make(map[string]*handler, len(tools))
	}
	if s.descs == nil || len(s.descs) > maxDescribed {
		s.descs = map[audit.Hash]*described{}
	}
	for i := range tools {
		h := &tools[i]
		if same := s.descs[h.digest]; same != nil {
			h.described = same
		}
		s.descs[h.digest] = h.described
		s.tools[agent][h.Descriptor.ID] = h
	}
	if s.live != nil && len(s.live.state.SagasOpen) > 0 {
		s.hv.offer(s.toolsCame)
	}
}

// prepare checks the descriptor and computes what every call of the tool needs.
func (t *Tool) prepare() (handler, error) {
	if err := t.Descriptor.Validate(); err != nil {
		return handler{}, err
	}
	if t.Do == nil {
		return handler{}, fmt.Errorf("%w: %s has no function", action.ErrDescriptor, t.Descriptor.ID)
	}
	if _, err := action.ParseTemplate(t.Descriptor.Resource, action.InResource); err != nil {
		return handler{}, fmt.Errorf("%w: %s: resource: %w", action.ErrDescriptor, t.Descriptor.ID, err)
	}
	return handler{described: &described{t.Descriptor, t.Descriptor.Digest()}, Do: t.Do, Check: t.Check, Answers: t.Answers, Reaches: t.Reaches,
		Server: t.Server, Prompt: t.Prompt, Changed: t.Changed}, nil
}
