package session_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/drift"
	"github.com/agenthypervisor/hypervisor/internal/scenario"
	"github.com/agenthypervisor/hypervisor/manifest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// See the commands' cases in perform for the language of testdata/*.txt.
func TestScenarios(t *testing.T) {
	scenario.Run(t, "testdata/*.txt", func(*testing.T) scenario.Play { return (&player{world: newWorld()}).perform })
}

// A player performs the commands of a scenario in a world.
type player struct {
	*world
	lastDue time.Time
}

// A line is a command's words: those in places, and those with names.
type line struct {
	text  string
	words []string
	named map[string]string
}

func parseLine(text string) line {
	l := line{text: text, named: map[string]string{}}
	for word := range strings.FieldsSeq(text) {
		if name, value, ok := strings.Cut(word, "="); ok {
			l.named[name] = value
		} else {
			l.words = append(l.words, word)
		}
	}
	return l
}

func (l line) word(i int) string {
	if i < len(l.words) {
		return l.words[i]
	}
	return ""
}

// by is the caller that a command names, or the given one.
func (l line) by(otherwise string) policy.Caller { return caller(cmp.Or(l.named["by"], otherwise)) }

func (p *player) perform(text string) ([]string, error) {
	l := parseLine(text)
	for i, word := range l.words {
		l.words[i] = p.named(word)
	}
	name := l.word(1)
	switch l.word(0) {
	// What the rim knows.
	case "sigma": // sigma ann 0.55
		p.setSigma(did(name), ring.MustSigma(l.word(2)))
		return nil, nil
	case "bonds": // bonds: what stands behind whom
		return p.bonds(), nil
	case "standing": // standing ann 0.80 [risk=0.35] [blacklisted]
		p.setStanding(did(name), l)
		return nil, nil
	case "action": // action files.write partial files resource=/srv/a
		call, err := tool(name, strings.Fields(text)[2:])
		p.tools[name] = call
		return nil, err
	case "forget": // forget files.write: its server is not here any more
		delete(p.tools, name)
		return nil, nil
	case "rule": // rule deny|require NAME ACTION [because=WHY] [agent=ann]
		effect := map[string]policy.Effect{"deny": policy.Deny, "require": policy.RequireApproval}[name]
		p.rules = append(slices.Clone(p.rules), rules{{policy.Verdict{Effect: effect, Rule: l.word(2), Reason: l.named["because"]}, l.word(3), ""}}...)
		if name := l.named["agent"]; name != "" {
			p.rules[len(p.rules)-1].agent = did(name)
		}
		p.version++
		return nil, nil
	case "operators": // operators 2
		var err error
		p.operators, err = strconv.Atoi(name)
		return nil, err
	case "clock": // clock +61s: the time is that, and nobody has been told
		return nil, p.setClock(name)

	case "quarantine": // quarantine ann drift: its stream says so
		s := p.standings[did(name)]
		s.Quarantine = &agent.Quarantined{Since: p.now, Until: p.now.Add(agent.DefaultQuarantine), Reasons: []string{l.word(2)}}
		p.standings = maps.Clone(p.standings)
		p.standings[did(name)] = s
		return nil, nil
	case "release": // release ann
		s := p.standings[did(name)]
		s.Quarantine = nil
		p.standings = maps.Clone(p.standings)
		p.standings[did(name)] = s
		return nil, nil
	case "stopped": // stopped all | session | ann | ann here: a kill is in force that no record tells of
		p.kills = p.kills.With(p.kill(l))
		return nil, nil
	case "unstopped": // unstopped: no such kill is in force
		p.kills = policy.Kills{}
		return nil, nil

	// What the world does to it.
	case "at": // at +61s: time goes by, and the session is told whenever something is due
		return p.runTo(name)
	case "restart": // a clean stop, and another process
		p.process++
		return p.recover(0, false)
	case "crash": // crash [lost=2] [behind]: an unclean stop; records that were not on the disk yet are lost
		p.process++
		p.node++
		lost, _ := strconv.Atoi(l.named["lost"])
		return p.recover(lost, name == "behind")
	case "active": // active ann=0.97 bob=0.70: a session of these, acting
		return p.active(l)
	case "repeat": // repeat 11 act ann files.read: the answers are counted
		return p.repeat(text)
	case "show": // show ann: what the log says of a participant
		s := p.live.Participants[did(name)]
		return []string{fmt.Sprintf("%s ring %d, %d running, %d.%03d of %d tokens", name, s.Ring, s.Running, s.Bucket.Level/1e6, s.Bucket.Level/1e3%1e3, s.Bucket.Ring.Limits().Burst)}, nil
	}
	by, c, err := p.command(l)
	if err != nil {
		return nil, err
	}
	return p.trace(p.do(by, c, l.named["key"]))
}

// command reads what is decided by the kernel.
func (p *player) command(l line) (by policy.Caller, c session.Command, err error) {
	name := l.word(1)
	const operator = "operator:ops"
	switch l.word(0) {
	case "session": // session [eventual] [max_participants=2] …
		cfg, err := config(l)
		return l.by(operator), session.Create{Config: cfg, Undoes: l.named["undoes"]}, err
	case "join": // join ann 0.97 [manifest=trusted,7] [t.write=none|admin|network|…] [past=1,2,3 [proofs=ok,bad,?]]
		if s := l.word(2); s != "" {
			p.setSigma(did(name), ring.MustSigma(s))
		}
		c := session.Join{Agent: did(name)}
		if c.Manifest, err = presented(l); err == nil {
			c.Receipts, c.Proofs, err = past(l, p.now)
		}
		return l.by(operator), c, err
	case "leave":
		return l.by(name), session.Leave{Agent: did(name)}, nil
	case "spawn": // spawn ann kid [manifest=…] [past=…]
		c := session.Join{Agent: did(l.word(2))}
		if c.Manifest, err = presented(l); err == nil {
			c.Receipts, c.Proofs, err = past(l, p.now)
		}
		return l.by(name), c, err
	case "activate":
		return l.by(operator), session.Activate{}, nil
	case "kill": // kill session | ann here [reason=drift] [id=kil-2]
		return l.by(operator), session.Kill{Kill: p.kill(l)}, nil
	case "lift": // lift ann
		return l.by(operator), session.LiftKill{Agent: did(name)}, nil
	case "elevate": // elevate ann 2 [for=60s] [reason=…] [by=operator:ops]
		to, err := strconv.Atoi(l.word(2))
		c := session.Elevate{Ring: ring.Ring(to), Reason: l.named["reason"]}
		if v := l.named["for"]; v != "" && err == nil {
			c.For, err = time.ParseDuration(v)
		}
		if l.named["by"] != "" {
			c.Agent = did(name)
		}
		return l.by(name), c, err
	case "lower": // lower elv-4
		return l.by(operator), session.EndElevation{ID: name}, nil
	case "attribute": // attribute sag-4: who led to its failing is found in the records
		c := session.AttributeSaga{Saga: name}
		if g := p.live.Sagas[name]; g != nil {
			c.Found = p.found(g.Failed)
		}
		return policy.System, c, nil
	case "incident": // incident act-7|ann [by=…] [severity=0.7] [reason=…]
		c := session.RaiseIncident{Reason: l.named["reason"]}
		if v := l.named["severity"]; v != "" {
			s := ring.MustSigma(v)
			c.Severity = &s
		}
		if strings.HasPrefix(name, "act-") {
			c.Action, c.Found = name, p.found(name)
		} else {
			c.Agent = did(name)
		}
		return l.by(operator), c, nil
	case "drift": // drift ann 0.31 [by=service:cmvk] [metric=cosine claimed=1,0 observed=1,1]
		c := session.ReportDrift{Agent: did(name), Reason: l.named["reason"], Metric: l.named["metric"]}
		if c.Metric == "" {
			c.Distance = ring.MustSigma(l.word(2))
			return l.by("service:cmvk"), c, nil
		}
		var err [2]error
		c.Claimed, err[0] = drift.ParseVector(strings.Split(l.named["claimed"], ","))
		c.Observed, err[1] = drift.ParseVector(strings.Split(l.named["observed"], ","))
		return l.by("service:cmvk"), c, errors.Join(err[:]...)
	case "lift-demotion": // lift-demotion ann
		return l.by(operator), session.LiftDemotion{Agent: did(name)}, nil
	case "terminate":
		return l.by(operator), session.Terminate{Reason: l.named["reason"]}, nil
	case "act": // act ann files.write [args=x] [during=act-4]
		return caller(name), session.Act{Action: l.word(2), Args: []byte(cmp.Or(l.named["args"], "{}")), During: l.named["during"]}, nil
	case "saga": // saga [any(a+b)] release a:ann:files.write b:ann:files.move:needs=a:retries=2:undo=files.move
		c, err := p.saga(strings.Fields(l.text)[1:])
		return l.by(operator), c, err
	case "try": // try sag-5 a [by=ann]: what is owed for a step, or with an answer what came of its undo: try sag-5 a ok
		return p.try(l)
	case "end-wait": // end-wait sag-5 a happened|not|retry
		return l.by(operator), session.ResolveSaga{Saga: name, Step: l.word(2), How: l.word(3)}, nil
	case "invalidate": // invalidate sag-5 a: the goal of a is reached no more
		return l.by(operator), session.InvalidateGoal{Saga: name, Step: l.word(2)}, nil
	case "cancel":
		return l.by(operator), session.CancelSaga{Saga: name}, nil
	case "undo": // undo ann act-4 [of=s0] [reads=left|before|otherwise] [fault=WHY] [changed=s1/act-9] [undo=running|done|doubtful]
		step, err := p.undo(l)
		return caller(name), step, err
	case "undone": // undone act-4 act-6: a look has shown that the undo act-6 took place
		return policy.System, session.NoteUndone{Of: cmp.Or(l.named["of"], p.live.ID) + "/" + name, Agent: did("ann"), By: l.word(2)}, nil
	case "resolve": // resolve act-4 done|failed: a look has shown what became of it
		left := session.Leaving{Undo: []byte("[]"), After: &action.Image{Bytes: []byte("after")}, Keep: true}
		return policy.System, session.Resolve{Of: cmp.Or(l.named["of"], p.live.ID) + "/" + name, Result: results[l.word(2)], Left: left}, nil
	case "settle": // settle act-4 done|failed|unknown [why=timeout] [undo=CALLS] [after=TEXT|-] [left=TEXT]
		result := results[l.word(2)]
		out := []byte(`{"ok":true}`)
		if result == session.Uncertain {
			out = nil
		}
		return policy.System, session.Settle{ID: name, Result: result, Why: l.named["why"], Output: out, Left: left(l)}, nil
	case "grant":
		return l.by(operator), session.Grant{Approval: name, Digest: p.digest(l)}, nil
	case "deny":
		return l.by(operator), session.Deny{Approval: name, Digest: p.digest(l)}, nil
	case "vote": // vote ann for|against apr-4
		return l.by(name), session.Vote{Approval: l.word(3), Digest: p.digest(l), Against: l.word(2) == "against"}, nil
	case "told": // told 0.51 0.45-0.16 vouch_refused: every entry that is owed, with the σ each made, what a clip took, or why not
		c := tellAll(p.live)
		for i := range c.Answers {
			a := &c.Answers[i]
			sigma, lost, clipped := strings.Cut(cmp.Or(l.word(i+1), "0.50"), "-")
			if !strings.HasPrefix(sigma, "0") {
				a.Code = policy.Code(sigma)
				continue
			}
			a.Sigma = ring.MustSigma(sigma)
			if clipped {
				a.Lost = ring.MustSigma(lost)
			}
		}
		return policy.System, c, nil
	case "vouch": // vouch ann bob [0.10] [expires=+5m]
		c := session.Vouch{Vouchee: did(l.word(2))}
		if s := l.word(3); s != "" {
			c.Bond = ring.MustSigma(s)
		}
		if s := l.named["expires"]; s != "" {
			d, err := time.ParseDuration(strings.TrimPrefix(s, "+"))
			if err != nil {
				return by, nil, err
			}
			c.Expires = start.Add(d)
		}
		return caller(name), c, nil
	case "withdraw": // withdraw vch-4 by=ann
		return l.by(operator), session.Withdraw{ID: name}, nil
	case "slash": // slash ann [0.5] [because=WHY]
		c := session.Slash{Agent: did(name), Cause: l.named["because"]}
		if s := l.word(2); s != "" {
			c.Severity = ring.MustSigma(s)
		}
		return l.by(operator), c, nil
	case "tick": // tick [all]: all, where the process is about to end
		return policy.System, session.Tick{All: name == "all"}, nil
	}
	return by, nil, fmt.Errorf("unknown command %q", l.word(0))
}

// presented reads a manifest, which goes through its own bytes; nil: there is none.
func presented(l line) (*manifest.Manifest, error) {
	level, score, scored := strings.Cut(l.named["manifest"], ",")
	if level == "" {
		return nil, nil
	}
	says := map[string]any{"agent_id": cmp.Or(l.named["of"], string(did(l.words[len(l.words)-1]))), "trust_level": level}
	if l.words[0] == "join" && l.named["of"] == "" {
		says["agent_id"] = did(l.word(1))
	}
	if scored {
		says["trust_score"] = json.Number(score)
	}
	var actions []any
	for _, name := range slices.Sorted(maps.Keys(l.named)) {
		a := map[string]any{"action_id": name}
		switch how := l.named[name]; {
		case !strings.Contains(name, "."):
			continue
		case slices.Contains([]string{"none", "partial", "full"}, how):
			a["reversibility"] = how
		case how == "admin":
			a["is_admin"] = true
		case how == "readonly":
			a["is_read_only"] = true
		default:
			a[how] = true
		}
		actions = append(actions, a)
	}
	says["actions"] = actions
	if every := l.named["every"]; every != "" {
		says["capabilities"] = map[string]any{"reversibility": every}
	}
	b, err := json.Marshal(says)
	if err != nil {
		return nil, err
	}
	return manifest.Parse(b)
}

// past reads receipts by number, and what the verifier finds out of each: the session of the third ended three hours after the start
// of January. 3@5h is one that ended five hours before now, 3-1h one that ended an hour before it was opened. Nobody is asked where
// there are no proofs.
func past(l line, now time.Time) (receipts []session.Receipt, proofs []session.Proof, err error) {
	if l.named["past"] == "" {
		return nil, nil, nil
	}
	joining := did(l.word(1))
	if l.word(0) == "spawn" {
		joining = did(l.word(2))
	}
	for text := range strings.SplitSeq(l.named["past"], ",") {
		number, before, moved := strings.Cut(text, "@")
		number, backwards, back := strings.Cut(number, "-")
		n, err := strconv.Atoi(number)
		if err != nil {
			return nil, nil, err
		}
		r := session.Receipt{Hypervisor: cmp.Or(l.named["from"], "hv.example"), Session: "ses-" + number, Agent: policy.DID(cmp.Or(l.named["of"], string(joining))),
			Ended: time.Date(2026, 1, 1, n, 0, 0, 0, time.UTC), Summary: sha256.Sum256([]byte(cmp.Or(l.named["summary"], number))), Records: 9, Proof: "proof"}
		if moved {
			ago, err := time.ParseDuration(before)
			if err != nil {
				return nil, nil, err
			}
			r.Ended = now.Add(-ago)
		}
		r.Opened = r.Ended.Add(-time.Hour)
		if back {
			by, err := time.ParseDuration(backwards)
			if err != nil {
				return nil, nil, err
			}
			r.Opened = r.Ended.Add(by)
		}
		receipts = append(receipts, r)
	}
	if answers := l.named["proofs"]; answers != "" {
		for answer := range strings.SplitSeq(answers, ",") {
			proofs = append(proofs, map[string]session.Proof{"ok": session.Proven, "bad": session.Disproven}[answer])
		}
	}
	return receipts, proofs, nil
}

// kill reads what is stopped: all, session, or an agent, everywhere or here.
func (p *player) kill(l line) policy.Kill {
	k := policy.Kill{ID: cmp.Or(l.named["id"], "kil-1"), Reason: policy.Reason(cmp.Or(l.named["reason"], "manual")), By: did("ops"), At: p.now}
	if v := l.named["substitute"]; v != "" {
		k.Substitute = did(v)
	}
	switch name := l.word(1); {
	case name == "all":
		k.All = true
	case name == "session":
		k.Session = p.live.ID
	default:
		k.Agent = did(name)
		if l.word(2) == "here" {
			k.Session = p.live.ID
		}
	}
	return k
}

// found is what the log says of an action.
func (p *player) found(id string) *session.Finding {
	var story session.Story
	for _, body := range p.log {
		r, err := audit.ParseRecord(body)
		if err != nil {
			panic(err)
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			panic(err)
		}
		story.Add(r.Time, events)
	}
	f, there := story.Of(id, 7)
	if !there {
		return nil
	}
	return &f
}

var results = map[string]session.Result{"done": session.Done, "failed": session.Unsuccessful, "unknown": session.Uncertain}

// left reads what an action left: its undo, and how the resource reads after it.
func left(l line) (out session.Leaving) {
	if text := l.named["undo"]; text != "" {
		out.Undo = []byte(text)
	}
	if text := cmp.Or(l.named["after"], l.named["left"]); text != "" {
		out.After = &action.Image{Absent: text == "-"}
		if text != "-" {
			out.After.Bytes = []byte(text)
		}
		out.Keep = l.named["left"] != ""
	}
	return out
}

// undo makes the command from the log, as the rim does; what the line says besides is what other sessions' logs say.
func (p *player) undo(l line) (session.UndoStep, error) {
	step := session.UndoStep{AsOf: p.live.Seq, Of: session.Target{Session: cmp.Or(l.named["of"], p.live.ID), ID: l.word(2), Changed: l.named["changed"],
		Agent: did(cmp.Or(l.named["agent"], "ann")), Undo: session.UndoStatus(l.named["undo"]), By: l.named["was"]}}
	step.Reads = map[string]session.Reading{"left": session.ReadsAsLeft, "before": session.ReadsAsBefore, "otherwise": session.ReadsOtherwise}[l.named["reads"]]
	step.Fault = strings.ReplaceAll(l.named["fault"], "-", " ")
	if l.named["of"] != "" { // of another session: as the rim found it there
		step.Of.Outcome, step.Of.Reversibility, step.Of.Calls, step.Of.Required = session.Done, action.Full, true, ring.Standard
	}
	if text := l.named["as_of"]; text != "" {
		var err error
		if step.AsOf, err = strconv.ParseUint(text, 10, 64); err != nil {
			return step, err
		}
	}
	for _, body := range p.log {
		r, err := audit.ParseRecord(body)
		if err != nil {
			return step, err
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			return step, err
		}
		for _, e := range events {
			note(&step.Of, e)
		}
	}
	return step, nil
}

// note takes what an event says of an action into the target.
func note(t *session.Target, e session.Event) {
	switch e := e.(type) {
	case session.Admitted:
		if e.ID == t.ID {
			t.Agent, t.Action, t.ReadOnly, t.Reversibility, t.Required, t.Undoes, t.Resource, t.Until = e.Agent, e.Action, e.ReadOnly, e.Reversibility, e.RequiredRing, e.Undoes, e.Resource, e.UndoUntil
		}
	case session.Completed:
		if e.ID == t.ID {
			t.Outcome, t.Calls = session.Done, e.Undo != audit.Hash{}
		}
	case session.Failed:
		if e.ID == t.ID {
			t.Outcome = session.Unsuccessful
		}
	case session.Unknown:
		if e.ID == t.ID {
			t.Outcome = session.Uncertain
		}
	case session.Resolved:
		if e.ID == t.Name() {
			t.Outcome, t.Calls = results[e.Outcome], e.Undo != audit.Hash{}
		}
	}
}

// digest is what the approval shows, or what the command says instead.
func (p *player) digest(l line) string {
	for _, word := range l.words {
		if ap := p.live.Approvals[word]; ap != nil {
			return cmp.Or(l.named["digest"], ap.Digest.String())
		}
	}
	return l.named["digest"]
}

func config(l line) (cfg session.Config, err error) {
	if l.word(1) == "eventual" {
		cfg.Consistency = session.Eventual
	}
	duration := func(name string) (d time.Duration) {
		if v := l.named[name]; v != "" && err == nil {
			d, err = time.ParseDuration(v)
		}
		return d
	}
	cfg.Name = l.named["name"]
	cfg.MaxDuration, cfg.ApprovalTTL = duration("max_duration"), duration("approval_ttl")
	if v := l.named["max_participants"]; v != "" && err == nil {
		cfg.MaxParticipants, err = strconv.Atoi(v)
	}
	if v := l.named["min_sigma_eff"]; v != "" {
		s := ring.MustSigma(v)
		cfg.MinSigmaEff = &s
	}
	if v := l.named["network_allow"]; v != "" {
		cfg.NetworkAllow = strings.Split(v, ",")
	}
	if v := l.named["files_scope"]; v != "" {
		cfg.FilesScope = strings.Split(v, ",")
	}
	return cfg, err
}

// trace writes what came of a command.
func (p *player) trace(out session.Outcome, err error) ([]string, error) {
	if errors.Is(err, session.ErrImpossible) || errors.Is(err, session.ErrConfig) || errors.Is(err, session.ErrImageWanted) {
		return []string{"error: " + err.Error()}, nil
	} else if err != nil {
		return nil, err
	}
	if p.live.Config.Consistency == session.Strong && len(out.Events) > 0 && !out.Durable {
		return nil, fault("an answer of a strong session does not wait")
	}
	lines := []string{p.answer(out)}
	for _, e := range p.events {
		lines = append(lines, "  "+show(e))
	}
	for _, e := range p.effects {
		lines = append(lines, "  owes "+strings.TrimPrefix(fmt.Sprintf("%T %v", e, e), "session."))
	}
	if due := session.Due(p.live); !due.Equal(p.lastDue) {
		lines = append(lines, "  due "+since(due))
		p.lastDue = due
	}
	return lines, nil
}

func (p *player) answer(out session.Outcome) string {
	var b strings.Builder
	if !out.Allowed {
		fmt.Fprintf(&b, "refused %s: %s", out.Code, strings.ReplaceAll(out.Reason, "did:mesh:", ""))
	} else {
		b.WriteString("ok")
	}
	if len(out.Events) > 0 {
		fmt.Fprintf(&b, " #%d", out.Seq)
	}
	if out.ID != "" && out.Allowed {
		b.WriteString(" " + out.ID)
	}
	if out.Policy != "" {
		b.WriteString(" policy=" + out.Policy)
	}
	if out.Repeats != nil {
		fmt.Fprintf(&b, " (repeats record %d, its outcome in %d)", out.Repeats.Seq, out.Repeats.Outcome)
	}
	if p.live.Config.Consistency == session.Eventual && len(out.Events) > 0 {
		b.WriteString(map[bool]string{true: " (durable first)", false: " (at once)"}[out.Durable])
	}
	return b.String()
}

func (p *player) setClock(text string) error {
	d, err := time.ParseDuration(strings.TrimPrefix(text, "+"))
	if p.now.After(start.Add(d)) {
		return fmt.Errorf("the clock is at %s", since(p.now))
	}
	p.now = start.Add(d)
	return err
}

// runTo lets time go by.
func (p *player) runTo(text string) (lines []string, err error) {
	d, err := time.ParseDuration(strings.TrimPrefix(text, "+"))
	if err != nil {
		return nil, err
	}
	end := start.Add(d)
	for range 100 {
		due := p.due()
		if due.IsZero() || due.After(end) {
			p.now = end
			return lines, nil
		}
		if due.After(p.now) {
			p.now = due
		}
		more, err := p.trace(p.do(policy.System, session.Tick{}, ""))
		if err != nil {
			return nil, err
		}
		lines = append(append(lines, since(p.now)), more[1:]...)
	}
	return nil, fault("the session is due for ever")
}

// recover is what a process does first with a session it finds.
func (p *player) recover(lost int, behind bool) ([]string, error) {
	if err := p.reload(lost); err != nil {
		return nil, err
	}
	p.behind = behind
	defer func() { p.behind = false }()
	return p.trace(p.do(policy.System, session.Recover{}, ""))
}

// active opens a session of the named participants; what else is named are its settings.
func (p *player) active(l line) ([]string, error) {
	cfg, err := config(l)
	if err != nil {
		return nil, err
	}
	commands := []session.Command{session.Create{Config: cfg}}
	for _, name := range slices.Sorted(maps.Keys(l.named)) {
		if s, err := ring.ParseSigma(l.named[name]); err == nil && !strings.Contains(name, "_") {
			p.setSigma(did(name), s)
			commands = append(commands, session.Join{Agent: did(name)})
		}
	}
	for _, c := range append(commands, session.Activate{}) {
		out, err := p.do(caller("operator:ops"), c, "")
		if err != nil {
			return nil, err
		}
		if !out.Allowed {
			return []string{p.answer(out)}, nil
		}
	}
	p.lastDue = session.Due(p.live)
	return []string{fmt.Sprintf("ok, %d records, due %s", p.live.Seq, since(p.lastDue))}, nil
}

// repeat counts what a command is answered, and what is recorded.
func (p *player) repeat(text string) (lines []string, err error) {
	fields := strings.Fields(text)
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		return nil, err
	}
	last, times := "", 0
	flush := func() {
		if times > 0 {
			lines = append(lines, fmt.Sprintf("%d × %s", times, last))
		}
	}
	recorded := map[string]int{}
	for i := range n {
		l := parseLine(strings.ReplaceAll(strings.Join(fields[2:], " "), "@", strconv.Itoa(i)))
		by, c, err := p.command(l)
		if err != nil {
			return nil, err
		}
		out, err := p.do(by, c, l.named["key"])
		if err != nil {
			return nil, err
		}
		events := out.Events
		out.Events = nil // counted below
		answer := string(out.Code)
		if !out.Allowed && out.Code != policy.ApprovalRequired {
			answer = strings.ReplaceAll(p.answer(out), fmt.Sprintf("-%d", i), "-@")
		}
		if answer != last {
			flush()
			last, times = answer, 0
		}
		times++
		for _, e := range events {
			recorded[strings.Fields(show(e))[0]]++
		}
	}
	flush()
	for _, kind := range slices.Sorted(maps.Keys(recorded)) {
		lines = append(lines, fmt.Sprintf("  %d × %s", recorded[kind], kind))
	}
	p.lastDue = session.Due(p.live)
	return lines, nil
}

// bonds lists the bonds, and the σ_eff that each participant has.
func (p *player) bonds() (lines []string) {
	for _, id := range slices.Sorted(maps.Keys(p.live.Bonds)) {
		b := p.live.Bonds[id]
		lines = append(lines, strings.ReplaceAll(fmt.Sprintf("%s %s: %s for %s, %s, answers for %v", id, b.Status, b.Voucher, b.Vouchee, b.Amount, b.Calls), "did:mesh:", ""))
	}
	env := p.env(policy.System, nil, "")
	for _, agent := range slices.Sorted(maps.Keys(p.live.Participants)) {
		r, sigma := p.live.RingOf(&env, agent)
		lines = append(lines, strings.TrimPrefix(fmt.Sprintf("%s σ_eff %s, ring %d", agent, sigma, r), "did:mesh:"))
	}
	return lines
}
