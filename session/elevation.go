package session

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// elevation.go: a ring for a while, like sudo (SPEC §2 "Elevation"). The request opens an approval; with the sponsor's grant the
// elevation takes effect at once.

// The published names.
const (
	elevatedType = "ring.elevated"
	loweredType  = "ring.elevation_expired"
)

// The bounds of an elevation (SPEC §2).
const (
	DefaultElevation = 300 * time.Second
	MaxElevation     = 3600 * time.Second
	// From which σ_raw an agent can be elevated: strictly above for ring 2, and at least for ring 1.
	elevatedToStandard   ring.Sigma = 500_000
	elevatedToPrivileged ring.Sigma = 850_000
)

// ElevationAction is what an approval of an elevation names as its action.
const ElevationAction = "hypervisor.request_elevation"

// byParticipant is who sponsors beside an approver, as Decision.Approval.By says it.
const byParticipant = "participant"

// Why an elevation ended.
const (
	whyTime      = "time"
	whyStanding  = "standing" // its agent's σ_raw no longer carries it
	whyRevoked   = "revoked"
	whyEnded     = "session ended"
	whyLeft      = "the agent left"
	whyClock     = "clock set back"
	whyWithdrawn = "withdrawn"
)

// Elevate asks for a more privileged ring for a while.
type Elevate struct {
	Agent  policy.DID // zero: the caller; another is an operator's to name
	Ring   ring.Ring
	For    time.Duration // at most an hour, more is clamped; zero: five minutes
	Reason string        // for who sponsors it; at most 256 bytes
}

// EndElevation revokes an elevation, or withdraws the request for one.
type EndElevation struct {
	ID string
}

func (Elevate) command()      {}
func (EndElevation) command() {}

// An AskedElevation is what an approval is for if it is no call.
type AskedElevation struct {
	ID      string    `json:"id"` // of the elevation it will be
	Ring    ring.Ring `json:"ring"`
	Seconds uint64    `json:"seconds"`
}

// An Elevation is in effect until its time is over.
type Elevation struct {
	ID       string     `json:"id"`
	Ring     ring.Ring  `json:"ring"`
	Since    time.Time  `json:"since"`
	Until    time.Time  `json:"until"`
	By       policy.DID `json:"by"` // its sponsor
	Approval string     `json:"approval"`
}

// RingElevated is recorded when a sponsor has agreed; the elevation counts from then on.
type RingElevated struct {
	ID       string     `json:"id"`
	Agent    policy.DID `json:"agent"`
	Ring     ring.Ring  `json:"ring"`
	Until    time.Time  `json:"until"`
	By       policy.DID `json:"by"`
	Approval string     `json:"approval"`
}

// ElevationExpired is recorded when an elevation ends; it has counted no longer than its time.
type ElevationExpired struct {
	ID    string     `json:"id"`
	Agent policy.DID `json:"agent"`
	Why   string     `json:"why"` // time, standing, revoked, the agent left, session ended, clock set back
}

// decideElevate refuses in the order of SPEC §2; the first reason wins.
func decideElevate(s *State, env *Env, c Elevate) Outcome {
	did := c.Agent
	if did == "" {
		did = env.Caller.DID
	}
	k, stopped := s.killed(env, did)
	apart := s.quarantined(env, did)
	switch {
	case s.Lifecycle != Active || !env.Now.Before(s.Ends):
		return refuse(policy.SessionNotActive, "session %s is not active", s.ID)
	case did != env.Caller.DID && !env.Caller.Runs(), did == env.Caller.DID && env.Caller.Role != policy.AgentRole:
		return refuse(policy.Forbidden, "an agent asks for its own elevation, or an operator for it")
	case s.Participants[did] == nil:
		return refuse(policy.NotAParticipant, "%s is not in session %s", did, s.ID)
	case stopped:
		return Outcome{Decision: k.Refusal()}
	case apart != nil:
		return Outcome{Decision: *apart}
	case c.For < 0 || len(c.Reason) > maxReasonBytes || !utf8.ValidString(c.Reason):
		return refuse(policy.InvalidArguments, "an elevation is for a time, and its reason is text of at most %d bytes", maxReasonBytes)
	}
	if d := s.mayRise(env, did, c.Ring); d != nil {
		return Outcome{Decision: *d}
	}
	return s.askElevation(env, did, c)
}

// mayRise refuses an elevation that would not be one, or that the agent's standing does not carry. It is asked again when the
// sponsor agrees.
func (s *State) mayRise(env *Env, did policy.DID, to ring.Ring) *policy.Decision {
	r, score := s.RingOf(env, did)
	raw := s.rawSigma(env, did)
	ceiling, why := s.ceiling(env, did)
	var d *policy.Decision
	switch {
	case to == ring.Root:
		d = deny(policy.ElevationRefused, "ring 0 is no agent's")
	case to >= r:
		d = deny(policy.ElevationRefused, "ring %d is not above ring %d, where %s is", to, r, did)
	case s.stance(env, did).elevated < ring.Sandbox:
		d = deny(policy.ElevationRefused, "%s has one elevation, %s until %s; it may have another when that has ended",
			did, s.Elevations[did].ID, s.Elevations[did].Until.Format(time.RFC3339))
	case to == ring.Standard && !carries(raw, to):
		d = deny(policy.ElevationRefused, "an elevation to ring 2 needs a σ above %s, and %s has %s", elevatedToStandard, did, raw)
	case to == ring.Privileged && !carries(raw, to):
		d = deny(policy.ElevationRefused, "an elevation to ring 1 needs a σ of %s at least, and %s has %s", elevatedToPrivileged, did, raw)
	case ceiling > to:
		d = deny(policy.ElevationRefused, "an elevation lifts no ceiling, and %s cannot be above ring %d: %s", did, ceiling, why)
	}
	if d != nil {
		d.Ring, d.SigmaEff = &r, &score
	}
	return d
}

// carries reports whether a σ_raw is enough for an elevation: above 0.50 for ring 2, at least 0.85 for ring 1.
func carries(raw ring.Sigma, to ring.Ring) bool {
	if to == ring.Privileged {
		return raw >= elevatedToPrivileged
	}
	return raw > elevatedToStandard
}

// elevationOver returns why an elevation does not count any more; empty: it does. Who is slashed meanwhile does not stay elevated.
func (s *State) elevationOver(env *Env, did policy.DID, e *Elevation) string {
	switch {
	case !env.Now.Before(e.Until):
		return whyTime
	case !carries(s.rawSigma(env, did), e.Ring):
		return whyStanding
	}
	return ""
}

// askElevation opens the approval, or points at the one that is open for the same.
func (s *State) askElevation(env *Env, did policy.DID, c Elevate) Outcome {
	if c.For == 0 {
		c.For = DefaultElevation
	}
	seconds := uint64(max(min(c.For, MaxElevation), time.Second) / time.Second)
	args := elevationArgs(c.Ring, seconds, c.Reason)
	digest := s.elevationDigest(env, did, args)
	ap, open, kept := s.approvalFor(env, did, digest)
	switch {
	case ap == nil && open >= maxConcurrentApprovals, ap == nil && kept >= maxKeptApprovals:
		return refuse(policy.QuotaExceeded, "%s has %d approvals open, and may have no more; wait for one to be decided", did, open)
	case ap != nil && env.Now.Before(ap.Expires) && ap.Status == DeniedUntilEnd:
		return refuse(policy.ApprovalDenied, "this elevation of %s was denied (%s) until %s", did, ap.ID, ap.Expires.Format(time.RFC3339))
	case ap != nil && env.Now.Before(ap.Expires):
		return Outcome{Decision: s.pointAtElevation(env, ap.ID, digest, ap.By, did), ID: ap.Elevation.ID}
	}
	by := []string{byApprover}
	if c.Ring == ring.Standard {
		by = []string{byParticipant, byApprover}
	}
	commitment := part(env, "args", args)
	asked := AskedElevation{s.newID(env, "elv-"), c.Ring, seconds}
	id := s.newID(env, "apr-")
	out := Outcome{Decision: s.pointAtElevation(env, id, digest, by, did), ID: asked.ID, Parts: []audit.Part{commitment}, Durable: s.strong()}
	r := *out.Ring
	out.Events = append(s.ringChange(env, did), s.expire(env)...)
	out.Events = append(out.Events, ApprovalOpened{ID: id, Agent: did, Action: ElevationAction, Digest: digest, Rules: env.RulesID,
		Args: commitment.Commitment(), By: by, Expires: env.Now.Add(s.Config.ApprovalTTL), Ring: r, Elevation: &asked})
	return out
}

// elevationArgs are what an approval shows of an elevation.
func elevationArgs(to ring.Ring, seconds uint64, reason string) []byte {
	b := strconv.AppendUint([]byte(`{"ring":`), uint64(to), 10)
	b = strconv.AppendUint(append(b, `,"seconds":`...), seconds, 10)
	text, err := json.Marshal(reason)
	if err != nil {
		panic("session: a text does not encode: " + err.Error())
	}
	return append(append(append(b, `,"reason":`...), text...), '}')
}

func (s *State) elevationDigest(env *Env, did policy.DID, args []byte) (h audit.Hash) {
	mac := hmac.New(sha256.New, bytes.Clone(env.Secret[:]))
	fmt.Fprintf(mac, "%s %s %q ", ElevationAction, did, env.RulesID)
	mac.Write(args)
	mac.Sum(h[:0])
	return h
}

func (s *State) pointAtElevation(env *Env, id string, digest audit.Hash, by []string, did policy.DID) policy.Decision {
	d := policy.Refuse(policy.ApprovalRequired, "an elevation needs a sponsor: %s is open for %s; it takes effect with the grant", id, strings.Join(by, " or "))
	d.Approval = &policy.ApprovalRef{ID: id, Digest: digest.String(), By: by}
	r, score := s.RingOf(env, did)
	d.Ring, d.SigmaEff = &r, &score
	return d
}

// maySponsor refuses who cannot let the agent of an approval rise (SPEC §2): a participant of ring ≤ 2 by its own score, for ring
// 2, or an approver. Who answers as one with the agent is not another.
func (s *State) maySponsor(env *Env, ap *Approval) *policy.Decision {
	who := env.Caller.DID
	k, stopped := s.killed(env, who)
	apart := s.quarantined(env, who)
	switch {
	case who == ap.Agent:
		return deny(policy.Forbidden, "%s asked for %s itself; someone else sponsors it", who, ap.ID)
	case env.Caller.MayApprove():
		return nil
	case env.Caller.Role != policy.AgentRole || !slices.Contains(ap.By, byParticipant):
		return deny(policy.Forbidden, "%s is %s, and %s is granted by %s", who, env.Caller.Role, ap.ID, strings.Join(ap.By, " or "))
	case s.Participants[who] == nil:
		return deny(policy.NotAParticipant, "%s is not in session %s", who, s.ID)
	case stopped:
		d := k.Refusal()
		return &d
	case apart != nil:
		return apart
	case s.kin(who, ap.Agent):
		return deny(policy.Forbidden, "%s and %s answer as one; someone else sponsors it", who, ap.Agent)
	}
	if own := s.rawSigma(env, who); ring.ByScore(own) > ring.Standard { // which neither a bond nor an elevation lifts
		return deny(policy.Forbidden, "a sponsor is in ring 2 by its own score, above %s, and %s has %s", ring.StandardAbove, who, own)
	}
	return nil
}

// sponsor answers the grant of an elevation.
func (s *State) sponsor(env *Env, ap *Approval) Outcome {
	d := s.maySponsor(env, ap)
	if d == nil && ap.Status == DeniedUntilEnd {
		d = deny(policy.ApprovalDenied, "%s was denied", ap.ID)
	}
	if d == nil {
		d = s.quarantined(env, ap.Agent)
	}
	if d == nil {
		d = s.mayRise(env, ap.Agent, ap.Elevation.Ring)
	}
	if d != nil {
		return Outcome{Decision: *d}
	}
	until := env.Now.Add(time.Duration(ap.Elevation.Seconds) * time.Second)
	out := allow(ApprovalGranted{ap.ID, string(env.Caller.DID), until},
		RingElevated{ap.Elevation.ID, ap.Agent, ap.Elevation.Ring, until, env.Caller.DID, ap.ID})
	out.ID = ap.Elevation.ID
	return out
}

func decideEndElevation(s *State, env *Env, c EndElevation) Outcome {
	by := env.Caller
	for _, did := range s.elevatedIDs() {
		e := s.Elevations[did]
		switch {
		case e.ID != c.ID:
			continue
		case !by.MayApprove() && !by.Runs() && by.DID != did && by.DID != e.By:
			return refuse(policy.Forbidden, "%s is ended by %s itself, its sponsor, an approver or an operator", c.ID, did)
		}
		out := allow(s.endElevation(env, did, whyRevoked)...)
		out.ID = c.ID
		return out
	}
	for _, id := range s.approvalIDs() {
		ap := s.Approvals[id]
		switch {
		case ap.Elevation == nil || ap.Elevation.ID != c.ID || ap.Status != Open:
			continue
		case !by.MayApprove() && !by.Runs() && by.DID != ap.Agent:
			return refuse(policy.Forbidden, "the request %s is withdrawn by %s itself, an approver or an operator", c.ID, ap.Agent)
		}
		out := allow(ApprovalExpired{ID: id, Why: whyWithdrawn})
		out.ID = c.ID
		return out
	}
	return refuse(policy.NotFound, "there is no elevation %s in session %s, or it has ended", c.ID, s.ID)
}

// endElevation returns the events that end an agent's elevation, with the drop that follows.
func (s *State) endElevation(env *Env, did policy.DID, why string) []Event {
	e := s.Elevations[did]
	if e == nil {
		return nil
	}
	st := s.stance(env, did)
	st.elevated = ring.Sandbox
	return append([]Event{ElevationExpired{e.ID, did, why}}, s.ringChangeAs(env, did, st)...)
}

// elevatedIDs are the agents that have an elevation, in order.
func (s *State) elevatedIDs() []policy.DID { return ordered(s.Elevations, cmp.Compare) }

// Append appends the event's JSON.
func (e RingElevated) Append(dst []byte) []byte {
	return audit.Event(dst, elevatedType).Str("id", e.ID).Str("agent", string(e.Agent)).Uint("ring", uint64(e.Ring)).
		Time("until", e.Until).Str("by", string(e.By)).Str("approval", e.Approval).End()
}

func (e RingElevated) apply(s *State, at Stamp) {
	s.Elevations[e.Agent] = &Elevation{ID: e.ID, Ring: e.Ring, Since: at.Time, Until: e.Until, By: e.By, Approval: e.Approval}
	s.Participants[e.Agent].Ring = e.Ring
	delete(s.Approvals, e.Approval)
}

// Append appends the event's JSON.
func (e ElevationExpired) Append(dst []byte) []byte {
	return audit.Event(dst, loweredType).Str("id", e.ID).Str("agent", string(e.Agent)).Str("why", e.Why).End()
}

func (e ElevationExpired) apply(s *State, _ Stamp) { delete(s.Elevations, e.Agent) }

func (a AskedElevation) append(dst []byte) []byte {
	dst = audit.AppendString(append(dst, `{"id":`...), a.ID)
	dst = strconv.AppendUint(append(dst, `,"ring":`...), uint64(a.Ring), 10)
	return append(strconv.AppendUint(append(dst, `,"seconds":`...), a.Seconds, 10), '}')
}
