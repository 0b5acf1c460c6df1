package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/internal/auth"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
	"github.com/agenthypervisor/hypervisor/system"
)

// A house is an API behind real tokens, one for each role; ann is in the session "one" and eve in another.
type house struct {
	hv     *hypervisor.Hypervisor
	door   *auth.Door
	api    *API
	tokens map[string]string
	one    *hypervisor.Session
}

func build(t *testing.T) *house {
	t.Helper()
	hv := open(t)
	door := auth.NewDoor(hv)
	h := &house{hv: hv, door: door, api: New(hv, door.Identify, nil), tokens: map[string]string{"": ""}, one: live(t, hv)}
	for name, tok := range map[string]system.Token{
		"operator": {Subject: "did:mesh:ops", Role: policy.OperatorRole}, "approver": {Subject: "did:mesh:kim", Role: policy.ApproverRole},
		"auditor": {Subject: "did:mesh:aud", Role: policy.AuditorRole}, "service": {Subject: "did:mesh:svc", Role: policy.ServiceRole},
		"agent": {Subject: ann.DID, Role: policy.AgentRole, Session: h.one.ID()}, "other": {Subject: "did:mesh:eve", Role: policy.AgentRole, Session: live(t, hv).ID()},
	} {
		secret, _, err := door.Issue(t.Context(), admin, tok, 0)
		if err != nil {
			t.Fatal(err)
		}
		h.tokens[name] = secret.Reveal()
	}
	return h
}

// ask makes a request in a role; key is an idempotency key, or empty.
func (h *house) ask(role, method, target, body, key string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if h.tokens[role] != "" {
		r.Header.Set("Authorization", "Bearer "+h.tokens[role])
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	w := httptest.NewRecorder()
	h.api.ServeHTTP(w, r)
	return w
}

// get decodes an answer that must be one.
func get[T any](t *testing.T, w *httptest.ResponseRecorder) (v T) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return v
}

// SPEC §7 "Authority", route by route. A letter stands for a role that passes the door: whether it finds anything is another matter.
func TestEachRouteLetsInItsRoles(t *testing.T) {
	h := build(t)
	roles := map[byte]string{'o': "operator", 'p': "approver", 'u': "auditor", 's': "service", 'a': "agent", 'e': "other"}
	one := "/v1/sessions/" + h.one.ID()
	for _, c := range []struct{ method, target, body, in string }{
		{"GET", "/v1/sessions", "", "opu"},
		{"POST", "/v1/sessions", `{}`, "o"},
		{"GET", one, "", "opua"},
		{"GET", one + "/log", "", "opu"},
		{"GET", one + "/actions", "", "opua"},
		{"GET", one + "/actions/act-1", "", "opua"},
		{"POST", one + "/actions?dry_run=true", `{"action":"read"}`, "oa"},
		{"POST", one + "/join", `{"agent":"did:mesh:bob","sigma":0.5}`, "o"},
		{"POST", one + "/join", `{"agent":"bob"}`, "oa"}, // an agent brings whom it spawns; bob is no DID
		{"POST", one + "/elevations", `{"ring":7,"agent":"did:mesh:ann"}`, "oa"},
		{"GET", one + "/elevations", "", "opua"},
		{"DELETE", one + "/elevations/elv-1", "", "opa"},
		{"DELETE", one + "/demotions/did:mesh:ann", "", "o"},
		{"POST", one + "/incidents", `{"action":"act-1","reason":"x"}`, "oa"},
		{"GET", one + "/incidents", "", "opu"},
		{"GET", one + "/incidents/inc-1", "", "opu"},
		{"POST", one + "/leave", `{"agent":"did:mesh:bob"}`, "o"}, // ann may leave, another is not hers to take out
		{"POST", one + "/activate", "", "o"},
		{"GET", "/v1/actions/act-1", "", "opu"},
		{"POST", "/v1/undo", `{"agent":"did:mesh:ann","since":"1h","plan":true}`, "o"},
		{"POST", one + "/undo", `{"plan":true}`, "oa"},
		{"POST", one + "/actions/act-1/undo", `{"plan":true}`, "oa"},
		{"GET", "/v1/approvals", "", "opuae"}, // an agent those that concern it, in its own session
		{"GET", "/v1/approvals?session=" + h.one.ID(), "", "opua"},
		{"GET", "/v1/approvals/apr-1", "", "opu"},
		{"POST", "/v1/approvals/apr-1/grant", `{"digest":"00"}`, "opae"}, // an agent's is its vote, in its own session
		{"POST", "/v1/approvals/apr-1/deny", `{"digest":"00"}`, "opae"},
		{"POST", "/v1/approvals/apr-1/deny?session=" + h.one.ID(), `{"digest":"00"}`, "opa"},
		{"GET", "/v1/agents", "", "opu"},
		{"POST", "/v1/agents", `{"did":"did:mesh:bob"}`, "o"},
		{"GET", "/v1/agents/did:mesh:ann", "", "opua"},
		{"GET", "/v1/agents/did:mesh:ann/ledger", "", "opua"},
		{"POST", "/v1/agents/did:mesh:ann/tokens", `{"session":"ses-none"}`, "o"},
		{"GET", "/v1/tokens", "", "ou"},
		{"POST", "/v1/tokens", `{"did":"did:mesh:kim","role":"approver"}`, "o"},
		{"DELETE", "/v1/tokens/tok-none", "", "o"},
		{"GET", "/v1/tools", "", "opu"},
		{"POST", "/v1/tools/accept", `{"tool":"x.y","digest":"` + strings.Repeat("0", 64) + `"}`, "o"},
		{"GET", "/v1/kill", "", "opu"},
		{"POST", "/v1/kill", `{"session":"ses-none"}`, "o"},
		{"DELETE", "/v1/kill", `{"agent":"did:mesh:bob"}`, "o"},
		{"POST", "/v1/agents/did:mesh:bob/quarantine", `{}`, "o"},
		{"POST", "/v1/agents/did:mesh:bob/release", `{}`, "o"},
		{"POST", "/v1/agents/did:mesh:bob/kill", `{"session":"ses-none"}`, "o"},
		{"POST", one + "/terminate", "", "o"},
	} {
		for letter, role := range roles {
			w := h.ask(role, c.method, c.target, c.body, "")
			if in, want := w.Code != http.StatusForbidden, strings.IndexByte(c.in, letter) >= 0; in != want {
				t.Errorf("%s %s as %s: %d %s", c.method, c.target, role, w.Code, w.Body)
			}
		}
		if w := h.ask("", c.method, c.target, c.body, ""); w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s %s as nobody: %d", c.method, c.target, w.Code)
		}
	}
	if w := h.ask("agent", "GET", "/v1/events", "", ""); w.Code != http.StatusForbidden {
		t.Errorf("an agent follows the log: %d", w.Code)
	}
}

func TestASessionIsMadeWithItsSettingsOnce(t *testing.T) {
	h := build(t)
	h.api.opts.Defaults = func() session.Config {
		return session.Config{MaxParticipants: 4, MaxDuration: 2 * time.Hour, NetworkAllow: []string{"a.example"}}
	}
	yes := true
	full := api.SessionConfig{Name: "dev", Consistency: "eventual", MaxParticipants: 7, MaxDuration: "2d", MinSigmaEff: "0.5", VouchWeight: "0.25",
		Audit: &yes, ApprovalTTL: "20m", NetworkAllow: []string{"b.example"}, FilesScope: []string{"/srv"}}
	for i := range reflect.TypeOf(full).NumField() {
		if reflect.ValueOf(full).Field(i).IsZero() {
			t.Fatalf("the sample lacks %s", reflect.TypeOf(full).Field(i).Name)
		}
	}
	body, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	s := get[api.Session](t, h.ask("operator", "POST", "/v1/sessions", string(body), "k1"))
	want := `{"name":"dev","consistency":"eventual","max_participants":7,"max_duration":"48h0m0s","min_sigma_eff":0.50,"vouch_weight":0.25,` +
		`"audit":true,"approval_ttl":"20m0s","network_allow":["b.example"],"files_scope":["/srv"]}`
	if string(s.Config) != want || s.Lifecycle != "handshaking" {
		t.Errorf("%s %s\nwant %s", s.Lifecycle, s.Config, want)
	}
	if again := get[api.Session](t, h.ask("operator", "POST", "/v1/sessions", string(body), "k1")); again.ID != s.ID {
		t.Error("the same key made another session")
	}
	if w := h.ask("operator", "POST", "/v1/sessions", `{"name":"dev"}`, "k1"); w.Code != http.StatusConflict || errorOf(t, w).Code != "idempotency_conflict" {
		t.Errorf("the same key with another body: %d %s", w.Code, w.Body)
	}
	if w := h.ask("operator", "POST", "/v1/sessions", `{"name":"dev"}`, ""); w.Code != http.StatusForbidden {
		t.Errorf("a name that is held: %d %s", w.Code, w.Body)
	}
	if plain := get[api.Session](t, h.ask("operator", "POST", "/v1/sessions", `{}`, "")); !strings.Contains(string(plain.Config), `"max_participants":4,"max_duration":"2h0m0s"`) {
		t.Errorf("the defaults are not the configuration's: %s", plain.Config)
	}
	for _, bad := range []string{`{"max_duration":"8d"}`, `{"max_duration":"soon"}`, `{"max_duration":"-1s"}`, `{"consistency":"weak"}`, `{"min_sigma_eff":1.1}`,
		`{"max_participants":1001}`, `{"name":"a b"}`, `{"files_scope":[""]}`,
		`{"network_allow":["https://a.example/"]}`, `{"network_allow":["a b"]}`, `{"network_allow":["a.*.example"]}`} {
		if w := h.ask("operator", "POST", "/v1/sessions", bad, ""); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
	for _, bad := range []string{`{"min_sigma_eff":"0.5"}`, `{"members":3}`, `[]`, ``} {
		if w := h.ask("operator", "POST", "/v1/sessions", bad, ""); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
	if w := h.ask("operator", "POST", "/v1/sessions", `{}`, strings.Repeat("k", 257)); w.Code != http.StatusBadRequest {
		t.Errorf("a key too long: %d", w.Code)
	}
}

func TestAnAgentActsOverHTTPAsOverMCP(t *testing.T) {
	h := build(t)
	target := "/v1/sessions/" + h.one.ID() + "/actions"
	out := get[api.Outcome](t, h.ask("agent", "POST", target, `{"action":"read","args":{"n":1}}`, "k"))
	if out.Outcome != "done" || string(out.Result) != `{"n":1}` || !out.Decision.Allowed {
		t.Errorf("%+v", out)
	}
	if again := get[api.Outcome](t, h.ask("agent", "POST", target, `{"action":"read","args":{"n":1}}`, "k")); again.ID != out.ID {
		t.Errorf("the same key acted twice: %+v", again)
	}
	if w := h.ask("agent", "POST", target, `{"action":"read","args":{"n":2}}`, "k"); w.Code != http.StatusConflict {
		t.Errorf("the same key with other arguments: %d %s", w.Code, w.Body)
	}
	if out := get[api.Outcome](t, h.ask("agent", "POST", target+"?dry_run=true", `{"action":"delete"}`, "")); out.ID != "" || out.Decision.Code != "approval_required" || out.Decision.Approval != nil && out.Decision.Approval.ID == "" {
		t.Errorf("dry run: %+v", out)
	}
	w := h.ask("agent", "POST", target, `{"action":"delete"}`, "")
	if e := errorOf(t, w); w.Code != http.StatusForbidden || e.Details.Decision == nil || e.Details.Decision.Approval == nil {
		t.Errorf("a refusal: %d %s", w.Code, w.Body)
	}
	soon := get[api.Outcome](t, h.ask("agent", "POST", target, `{"action":"read","wait":false}`, ""))
	if soon.ID == "" || soon.Outcome != "running" {
		t.Errorf("without waiting: %+v", soon)
	}
	if w := h.ask("agent", "POST", target, `{"args":{}}`, ""); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("no action: %d", w.Code)
	}
	page := get[api.Page[api.Action]](t, h.ask("agent", "GET", target, "", ""))
	if len(page.Items) != 2 {
		t.Errorf("ann sees %d actions of her own, want 2", len(page.Items))
	}
	act(t, h.one, "read", `{}`)
	get[api.Joined](t, h.ask("operator", "POST", "/v1/sessions/"+h.one.ID()+"/join", `{"agent":"did:mesh:bob","sigma":0.7}`, ""))
	theirs, err := h.one.Act(t.Context(), policy.Agent("did:mesh:bob"), session.Act{Action: "read"})
	if err != nil {
		t.Fatal(err)
	}
	if w := h.ask("agent", "GET", target+"/"+theirs.ID, "", ""); w.Code != http.StatusNotFound {
		t.Errorf("ann sees what bob did: %d", w.Code)
	}
}

// SPEC §9 "Manifests": a join's manifest holds its agent lower; what is no manifest is refused before anybody joins.
func TestAJoinTakesAManifest(t *testing.T) {
	h := build(t)
	target := "/v1/sessions/" + h.one.ID() + "/join"
	for _, bad := range []string{`"x"`, `{}`, `{"agent_id":"did:mesh:bob","trust_level":"trusted","is_admin":true}`, `{"agent_id":"did:mesh:eve","trust_level":"trusted"}`} {
		w := h.ask("operator", "POST", target, `{"agent":"did:mesh:bob","sigma":0.97,"manifest":`+bad+`}`, "")
		if e := errorOf(t, w); w.Code != http.StatusUnprocessableEntity || e.Code != string(policy.InvalidArguments) {
			t.Errorf("%s: %d %s", bad, w.Code, w.Body)
		}
	}
	if _, err := h.one.Participant(t.Context(), "did:mesh:bob"); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("bob has joined: %v", err)
	}
	j := get[api.Joined](t, h.ask("operator", "POST", target, `{"agent":"did:mesh:bob","sigma":0.97,"manifest":{ "trust_level":"untrusted", "agent_id":"did:mesh:bob"}}`, ""))
	if j.Ring != 3 || len(j.Manifest) != 64 {
		t.Errorf("%+v", j)
	}
}

// SPEC §3 "History": a join's receipts are read strictly; contradictions hold their agent in ring 3, and with nobody to ask good ones change nothing.
func TestAJoinTakesReceipts(t *testing.T) {
	h := build(t)
	target := "/v1/sessions/" + h.one.ID() + "/join"
	receipt := func(agent, session, extra string) string {
		return `{"hypervisor":"hv.example","session":"` + session + `","agent":"` + agent + `","opened":"2026-01-01T00:00:00Z","ended":"2026-01-01T01:00:00Z","summary_hash":"` +
			audit.Leaf([]byte(session)).String() + `","records":9,"proof":"p"` + extra + `}`
	}
	join := func(agent, receipts string) *httptest.ResponseRecorder {
		return h.ask("operator", "POST", target, `{"agent":"`+agent+`","sigma":0.97,"receipts":`+receipts+`}`, "")
	}
	many := "[" + strings.Repeat(receipt("did:mesh:bob", "a", "")+",", session.MaxReceipts) + receipt("did:mesh:bob", "a", "") + "]"
	for _, bad := range []string{`"x"`, `[null]`, `[{}]`, `[` + receipt("did:mesh:bob", "a", `,"trusted":true`) + `]`, `[` + receipt("did:mesh:eve", "a", "") + `]`,
		`[` + receipt("did:mesh:bob", "", "") + `]`, many, `[` + strings.Replace(receipt("did:mesh:bob", "a", ""), `"p"`, `"`+strings.Repeat("p", 8<<10+1)+`"`, 1) + `]`} {
		if w := join("did:mesh:bob", bad); w.Code != http.StatusUnprocessableEntity && w.Code != http.StatusBadRequest {
			t.Errorf("%.200s: %d %s", bad, w.Code, w.Body)
		}
	}
	if _, err := h.one.Participant(t.Context(), "did:mesh:bob"); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("bob has joined: %v", err)
	}
	if j := get[api.Joined](t, join("did:mesh:bob", `[`+receipt("did:mesh:bob", "a", "")+`]`)); j.Ring != 1 || j.History == nil || j.History.Result != "unreachable" {
		t.Errorf("nobody to ask: %+v", j)
	}
	twice := receipt("did:mesh:eve", "a", "")
	if j := get[api.Joined](t, join("did:mesh:eve", `[`+twice+`,`+twice+`]`)); j.Ring != 3 || j.History == nil || j.History.Result != "suspicious" || j.History.Why == "" {
		t.Errorf("one session twice: %+v", j)
	}
}

func TestAgentsAndTheirTokens(t *testing.T) {
	h := build(t)
	bob := get[api.Agent](t, h.ask("operator", "POST", "/v1/agents", `{"did":"did:mesh:bob"}`, ""))
	if bob.Sigma != "0.50" || bob.Records != 1 {
		t.Errorf("a newcomer: %+v", bob)
	}
	if again := get[api.Agent](t, h.ask("operator", "POST", "/v1/agents", `{"did":"did:mesh:bob"}`, "")); again.Records != bob.Records || again.Sigma != bob.Sigma {
		t.Errorf("registered again: %+v", again)
	}
	get[api.Agent](t, h.ask("operator", "POST", "/v1/agents", `{"did":"did:mesh:bob","sigma":0.9}`, ""))
	ledger := get[api.Page[api.LedgerEntry]](t, h.ask("auditor", "GET", "/v1/agents/did:mesh:bob/ledger?limit=1", "", ""))
	if len(ledger.Items) != 1 || ledger.Cursor != "1" || ledger.Items[0].Source != "operator" || ledger.Items[0].Caller.Via != "http" {
		t.Errorf("%+v", ledger)
	}
	ledger = get[api.Page[api.LedgerEntry]](t, h.ask("auditor", "GET", "/v1/agents/did:mesh:bob/ledger?cursor=1", "", ""))
	if len(ledger.Items) != 1 || ledger.Cursor != "" || ledger.Items[0].Sigma != "0.90" {
		t.Errorf("%+v", ledger)
	}
	if w := h.ask("operator", "GET", "/v1/agents/did:mesh:nobody", "", ""); w.Code != http.StatusNotFound {
		t.Errorf("an agent nobody knows: %d", w.Code)
	}
	get[api.Session](t, h.ask("operator", "POST", "/v1/sessions", `{"name":"dev"}`, ""))
	tok := get[api.IssuedToken](t, h.ask("operator", "POST", "/v1/agents/did:mesh:bob/tokens", `{"session":"dev","for":"90d"}`, "k"))
	if len(tok.Token) != 47 || time.Until(tok.Expires) < 89*24*time.Hour {
		t.Errorf("%d characters until %s", len(tok.Token), tok.Expires)
	}
	if w := h.ask("operator", "POST", "/v1/agents/did:mesh:bob/tokens", `{"session":"dev","for":"90d"}`, "k"); w.Code != http.StatusConflict || strings.Contains(w.Body.String(), "hvt_") {
		t.Errorf("the same key: %d %s", w.Code, w.Body)
	}
	h.tokens["bob"] = tok.Token
	target := "/v1/sessions/dev/actions"
	if w := h.ask("bob", "POST", target, `{"action":"read"}`, ""); errorOf(t, w).Code != "unknown_action" {
		t.Errorf("bob was not let into the session his token names: %d %s", w.Code, w.Body)
	}
	if w := h.ask("bob", "GET", "/v1/sessions/"+h.one.ID(), "", ""); w.Code != http.StatusForbidden {
		t.Errorf("bob looked at another session: %d", w.Code)
	}
	if w := h.ask("auditor", "GET", "/v1/tokens", "", ""); strings.Contains(w.Body.String(), "hvt_") || !strings.Contains(w.Body.String(), tok.ID) {
		t.Errorf("%s", w.Body)
	}
	get[api.Decision](t, h.ask("operator", "DELETE", "/v1/tokens/"+tok.ID, "", ""))
	if w := h.ask("bob", "GET", "/v1/sessions/dev", "", ""); w.Code != http.StatusUnauthorized {
		t.Errorf("a revoked token: %d", w.Code)
	}
	for body, status := range map[string]int{`{}`: 422, `{"session":"ses-none"}`: 404, `{"session":"dev","alias":"dev"}`: 422, `{"alias":"none"}`: 404,
		`{"session":"dev","for":"367d"}`: 422, `{"session":"dev","for":"x"}`: 422} {
		if w := h.ask("operator", "POST", "/v1/agents/did:mesh:bob/tokens", body, ""); w.Code != status {
			t.Errorf("%s: %d %s, want %d", body, w.Code, w.Body, status)
		}
	}
	for body, status := range map[string]int{`{"did":"did:mesh:kim","role":"agent"}`: 422, `{"did":"did:mesh:kim","role":"system"}`: 422, `{"did":"kim","role":"approver"}`: 422, `{"did":"did:mesh:kim"}`: 422} {
		if w := h.ask("operator", "POST", "/v1/tokens", body, ""); w.Code != status {
			t.Errorf("%s: %d %s, want %d", body, w.Code, w.Body, status)
		}
	}
}

func TestPinsAreShownAndAccepted(t *testing.T) {
	h := build(t)
	seen := func(text string) map[string]system.Seen {
		return map[string]system.Seen{"files.read": {Digest: audit.Leaf([]byte(text)), Text: []byte(text)}}
	}
	for _, text := range []string{`{"v":1}`, `{"v":2}`} {
		if _, err := h.hv.Pin(t.Context(), admin, seen(text)); err != nil {
			t.Fatal(err)
		}
	}
	tools := get[api.Page[api.Tool]](t, h.ask("auditor", "GET", "/v1/tools?server=files", "", ""))
	if len(tools.Items) != 1 || !tools.Items[0].Changed || string(tools.Items[0].Was) != `{"v":1}` || string(tools.Items[0].Is) != `{"v":2}` {
		t.Fatalf("%+v", tools.Items)
	}
	if other := get[api.Page[api.Tool]](t, h.ask("auditor", "GET", "/v1/tools?server=file", "", "")); len(other.Items) != 0 {
		t.Errorf("a server whose name is the beginning of another's: %+v", other)
	}
	accept := func(digest string) *httptest.ResponseRecorder {
		return h.ask("operator", "POST", "/v1/tools/accept", fmt.Sprintf(`{"tool":"files.read","digest":%q}`, digest), "")
	}
	if w := accept(tools.Items[0].Pinned); w.Code != http.StatusNotFound {
		t.Errorf("a digest that was not seen last: %d", w.Code)
	}
	if w := accept("xyz"); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("no digest: %d", w.Code)
	}
	get[api.Decision](t, accept(tools.Items[0].Seen))
	if tools := get[api.Page[api.Tool]](t, h.ask("operator", "GET", "/v1/tools", "", "")); tools.Items[0].Changed || tools.Items[0].Was != nil {
		t.Errorf("%+v", tools.Items)
	}
}

// A reader of events reads messages until it has enough of them.
func (h *house) events(t *testing.T, server *httptest.Server, query, after string, enough int) (ids []string, events []api.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.tokens["auditor"])
	if after != "" {
		r.Header.Set("Last-Event-ID", after)
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Fatalf("%s %s", resp.Status, ct)
	}
	lines := bufio.NewScanner(resp.Body)
	for len(events) < enough && lines.Scan() {
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			ids = append(ids, id)
		}
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var e api.Event
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatalf("%s: %v", data, err)
			}
			events = append(events, e)
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return ids, events
}

func TestAFollowerOfEventsResumesBehindTheLastItSaw(t *testing.T) {
	h := build(t)
	server := httptest.NewServer(h.api)
	defer server.Close()
	act(t, h.one, "read", `{}`)
	query := "?session=" + h.one.ID()
	ids, all := h.events(t, server, query, "", 5)
	types := ""
	for _, e := range all {
		types += e.Type + " "
		if e.Stream != "session/"+h.one.ID() || e.Position == 0 || e.Caller.DID == "" {
			t.Errorf("%+v", e)
		}
	}
	if !strings.HasPrefix(types, "session.created session.joined ring.assigned session.activated action.admitted ") {
		t.Fatalf("types %s", types)
	}
	for i, id := range ids[:4] { // one of them lies within a record
		rest, _ := h.events(t, server, query, id, 1)
		if rest[0] != ids[i+1] {
			t.Errorf("behind %s comes %s, want %s", id, rest[0], ids[i+1])
		}
	}
	_, admitted := h.events(t, server, "?agent=did:mesh:ann&type=action.admitted,session.joined", "", 2)
	if admitted[0].Type != "session.joined" || admitted[1].Type != "session.joined" {
		t.Errorf("%+v", admitted)
	}
	_, sigma := h.events(t, server, "?agent=did:mesh:ann", "", 1)
	if sigma[0].Stream != "agent/did:mesh:ann" || !strings.HasPrefix(string(sigma[0].Event), `{"type":"agent.sigma_set","sigma":0.8,`) {
		t.Errorf("%+v %s", sigma, sigma[0].Event)
	}
	for _, bad := range []string{"x", "-1", "1.x", "1.2.3"} {
		r := httptest.NewRequest("GET", "/v1/events", nil)
		r.Header.Set("Authorization", "Bearer "+h.tokens["auditor"])
		r.Header.Set("Last-Event-ID", bad)
		w := httptest.NewRecorder()
		if h.api.ServeHTTP(w, r); w.Code != http.StatusBadRequest {
			t.Errorf("Last-Event-ID %s: %d", bad, w.Code)
		}
	}
	if w := h.ask("auditor", "GET", "/v1/events?session=ses-none", "", ""); w.Code != http.StatusNotFound {
		t.Errorf("a session that is not there: %d", w.Code)
	}
}

func TestStreamsOfEventsAreBounded(t *testing.T) {
	h := build(t)
	for range maxStreams {
		h.api.streams <- struct{}{}
	}
	if w := h.ask("auditor", "GET", "/v1/events", "", ""); w.Code != http.StatusServiceUnavailable || errorOf(t, w).Code != "overloaded" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAGuardAnswersWhatItRefuses(t *testing.T) {
	check := func(*http.Request) error { return fmt.Errorf("%w: not here", auth.ErrForbidden) }
	w := httptest.NewRecorder()
	Guard(check, http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
	if w.Code != http.StatusForbidden || errorOf(t, w).Code != "forbidden" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
