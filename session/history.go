package session

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// history.go: receipts of past sessions, presented at join (SPEC §3 "History"). They are claims: good ones raise nobody, bad ones hold
// their agent in ring 3 (docs/decisions/073).

const historyType = "verification.history_verified"

// The bounds of a history.
const (
	MaxReceipts     = 64
	maxReceiptProof = 8 << 10 // bytes
	maxOrigin       = 256     // bytes of a hypervisor's name or of a session's id
)

const (
	fewReceipts = 5               // fewer say nothing
	historyTTL  = 24 * time.Hour  // how long a result counts
	historySkew = 5 * time.Minute // how far another hypervisor's clock may be ahead of this one's
)

// The results.
const (
	pastVerified    = "verified"
	pastFew         = "few"
	pastSuspicious  = "suspicious"
	pastUnreachable = "unreachable"
)

// A Receipt says that an agent took part in a session that has ended.
type Receipt struct {
	Hypervisor string     // whose session it was: the origin of its transparency log; 1 to 256 bytes
	Session    string     // its id there; 1 to 256 bytes
	Agent      policy.DID // who took part
	Opened     time.Time
	Ended      time.Time
	Summary    audit.Hash // the session's summary hash
	Records    uint64     // that it covers; never 0
	Proof      string     // inclusion proof and checkpoint, at most 8 KiB; not read here
}

// A Proof is what was found out of one receipt before the join is decided.
type Proof uint8

// The proofs.
const (
	Unproven  Proof = iota // nobody could say; the zero value
	Proven                 // a checkpoint that is trusted here holds the summary, of a session in which the agent took part
	Disproven              // what it says is not so
)

// A History is what a session thinks of a participant's past.
type History struct {
	Result string    `json:"result"`        // verified, few, suspicious or unreachable
	Why    string    `json:"why,omitempty"` // of one that is suspicious
	Until  time.Time `json:"until"`         // when it counts no more
}

// HistoryVerified is recorded with the join that brings receipts.
type HistoryVerified struct {
	Agent policy.DID `json:"agent"`
	History
	Receipts uint64     `json:"receipts"` // how many were presented
	Digest   audit.Hash `json:"digest"`   // SHA-256 of them as JSON
}

// suspect returns the history if it holds its agent in ring 3 at a time, or nil. A nil History does not.
func (h *History) suspect(at time.Time) *History {
	if h != nil && h.Result == pastSuspicious && at.Before(h.Until) {
		return h
	}
	return nil
}

// malformed says what makes receipts no receipts of an agent; empty: nothing does.
func malformed(agent policy.DID, receipts []Receipt) string {
	if len(receipts) > MaxReceipts {
		return fmt.Sprintf("%d receipts are more than %d", len(receipts), MaxReceipts)
	}
	for i := range receipts {
		if what := receipts[i].malformed(agent); what != "" {
			return fmt.Sprintf("receipt %d: %s", i+1, what)
		}
	}
	return ""
}

func (r *Receipt) malformed(agent policy.DID) string {
	switch {
	case r.Agent != agent:
		return fmt.Sprintf("it is of %.256q, and %s is to join", r.Agent, agent)
	case !isName(r.Hypervisor):
		return fmt.Sprintf("hypervisor is text of 1 to %d bytes", maxOrigin)
	case !isName(r.Session):
		return fmt.Sprintf("session is text of 1 to %d bytes", maxOrigin)
	case r.Opened.IsZero() || r.Ended.IsZero():
		return "it does not say when its session was opened and ended"
	case r.Summary == audit.Hash{} || r.Records == 0:
		return "it has no summary_hash over at least one record"
	case len(r.Proof) > maxReceiptProof || !utf8.ValidString(r.Proof):
		return fmt.Sprintf("its proof is text of at most %d bytes", maxReceiptProof)
	}
	return ""
}

func isName(text string) bool { return text != "" && len(text) <= maxOrigin && utf8.ValidString(text) }

// judge says what receipts, whose form is sound, tell of an agent's past. Proofs stand in the receipts' places.
func judge(receipts []Receipt, proofs []Proof, now time.Time) *History {
	h := &History{Until: now.Add(historyTTL)}
	if why := contradiction(receipts, now); why != "" {
		h.Result, h.Why = pastSuspicious, why
		return h
	}
	if len(proofs) != len(receipts) { // nobody was asked, or who was did not answer
		h.Result = pastUnreachable
		return h
	}
	if i := slices.Index(proofs, Disproven); i >= 0 {
		h.Result, h.Why = pastSuspicious, fmt.Sprintf("the proof of receipt %d does not hold", i+1)
		return h
	}
	switch {
	case slices.ContainsFunc(proofs, func(p Proof) bool { return p != Proven }):
		h.Result = pastUnreachable
	case len(receipts) < fewReceipts:
		h.Result = pastFew
	default:
		h.Result = pastVerified
	}
	return h
}

// contradiction says what cannot be so in receipts, whatever their proofs: one session twice, or time that runs backwards. They
// stand in the order in which their sessions ended. Empty: nothing.
func contradiction(receipts []Receipt, now time.Time) string {
	type name struct{ hypervisor, session string }
	sessions, summaries := map[name]int{}, map[audit.Hash]int{}
	for i := range receipts {
		r := &receipts[i]
		of := name{r.Hypervisor, r.Session}
		if sessions[of] > 0 {
			return fmt.Sprintf("receipts %d and %d are of one session", sessions[of], i+1)
		}
		if summaries[r.Summary] > 0 {
			return fmt.Sprintf("receipts %d and %d have one summary", summaries[r.Summary], i+1)
		}
		sessions[of], summaries[r.Summary] = i+1, i+1
		switch {
		case r.Ended.Before(r.Opened):
			return fmt.Sprintf("the session of receipt %d ended before it was opened", i+1)
		case r.Ended.After(now.Add(historySkew)):
			return fmt.Sprintf("the session of receipt %d has not ended yet", i+1)
		case i > 0 && r.Ended.Before(receipts[i-1].Ended):
			return fmt.Sprintf("the session of receipt %d ended before that of receipt %d", i+1, i)
		}
	}
	return ""
}

// judged returns what is recorded of the receipts that a join brings, an incident too where they are suspicious, and takes it into
// the agent's stance. An incident of this kind is nobody's fault: the ring is what it costs.
func (s *State) judged(env *Env, c Join, st *stance) []Event {
	if len(c.Receipts) == 0 {
		return nil
	}
	h := judge(c.Receipts, c.Proofs, env.Now)
	b, err := json.Marshal(c.Receipts)
	if err != nil {
		panic("session: receipts do not encode: " + err.Error())
	}
	events := []Event{HistoryVerified{c.Agent, *h, uint64(len(c.Receipts)), sha256.Sum256(b)}}
	if h.Result == pastSuspicious {
		st.suspect = h
		events = append(events, IncidentRaised{ID: s.newID(env, "inc-"), Agent: c.Agent, Severity: DefaultSeverity,
			Reason: "its history is suspicious: " + h.Why, By: policy.System.DID, Faultless: suspiciousHistory})
	}
	return events
}

// Append appends the event's JSON.
func (e HistoryVerified) Append(dst []byte) []byte {
	return audit.Event(dst, historyType).Str("agent", string(e.Agent)).Str("result", e.Result).OptStr("why", e.Why).
		Time("until", e.Until).Uint("receipts", e.Receipts).Hash("digest", e.Digest).End()
}

func (e HistoryVerified) apply(s *State, at Stamp) {
	p, h := s.Participants[e.Agent], e.History
	if p.History.suspect(at.Time) == nil || h.Result == pastSuspicious { // a suspicion is not shed by presenting something better
		p.History = &h
	}
}
