//go:build unix

package gateway

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// limits_test.go: bounds that no other test meets on its way.

// endless is a server one of whose lists, tools or prompts, always has one more page. It counts the pages.
func endless(t *testing.T, list string, perPage int) (url string, pages *atomic.Int64) {
	t.Helper()
	pages = new(atomic.Int64)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.RawMessage
			Method string
		}
		if r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&m) != nil || m.Method == "server/discover" {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		page := func(member, item string) string {
			if member != list {
				return fmt.Sprintf(`{%q:[%s]}`, member, fmt.Sprintf(item, "one"))
			}
			n := pages.Add(1)
			items := make([]string, perPage)
			for i := range items {
				items[i] = fmt.Sprintf(item, fmt.Sprintf("n%d-%d", n, i))
			}
			return fmt.Sprintf(`{%q:[%s],"nextCursor":"%d"}`, member, strings.Join(items, ","), n)
		}
		result := ""
		switch m.Method {
		case "initialize":
			result = `{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{}},"serverInfo":{"name":"odd","version":"1"}}`
		case "tools/list":
			result = page("tools", rawTool)
		case "prompts/list":
			result = page("prompts", `{"name":%q}`)
		default:
			w.WriteHeader(http.StatusAccepted)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, pages
}

func TestAListOfToolsWithoutEndIsGivenUp(t *testing.T) {
	for perPage, most := range map[int]int64{1: maxToolPages, maxTools: 2} {
		url, pages := endless(t, "tools", perPage)
		err := runAt(t, Endpoint{URL: url}).Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), errTooManyTools.Error()) || pages.Load() > most {
			t.Errorf("%d tools a page: %v after %d pages", perPage, err, pages.Load())
		}
	}
}

func TestAListOfPromptsWithoutEndIsLookedThroughNoFurtherThanItsBound(t *testing.T) {
	url, pages := endless(t, "prompts", 1)
	hv, s := crowdedSession(t, 1)
	const swift = policy.DID("did:mesh:swift") // in ring 1, whose rate does not end it before
	if _, err := s.Join(t.Context(), policy.Operator("did:mesh:admin"), session.Join{Agent: swift, Sigma: ring.MustSigma("0.97")}); err != nil {
		t.Fatal(err)
	}
	h := hallOf(t, hv, s, &HubOptions{Servers: []ServerSpec{{Name: "odd", Endpoint: &Endpoint{URL: url}}}})
	p := postman{t: t, h: h, token: h.token(swift)}.session()
	p.say(`{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}`) // the server has started
	m, _ := p.say(`{"jsonrpc":"2.0","id":3,"method":"prompts/get","params":{"name":"odd__none"}}`)
	if m.Error == nil || !strings.Contains(m.Error.Message, "no server lists a prompt") || pages.Load() != maxListPages {
		t.Errorf("%+v after %d pages", m.Error, pages.Load())
	}
}

func TestAnAgentsClientsAreLimitedAndTheLongestIdleMakesRoom(t *testing.T) {
	h := newHall(t)
	p := postman{t: t, h: h, token: h.token(agentDID)}
	first := p.session()
	for range maxClients - 1 {
		h.clock.move(1)
		p.say(hello)
	}
	if _, resp := first.say(`{"jsonrpc":"2.0","id":2,"method":"ping"}`); resp.StatusCode != http.StatusOK {
		t.Errorf("the first of %d clients: %s", maxClients, resp.Status)
	}
	second := p.session()
	if _, resp := second.say(`{"jsonrpc":"2.0","id":2,"method":"ping"}`); resp.StatusCode != http.StatusOK {
		t.Errorf("one more: %s", resp.Status)
	}
	h.Hub.mu.Lock()
	n := 0
	for _, s := range h.Hub.seats {
		n += len(s.clients)
	}
	h.Hub.mu.Unlock()
	if n > maxClients {
		t.Errorf("%d clients are kept, %d are the most", n, maxClients)
	}
}

func TestSeatsAreLimited(t *testing.T) {
	h := newHall(t)
	token := h.token(agentDID)
	h.Hub.mu.Lock()
	for i := range maxSeats {
		h.Hub.seats[seatKey{policy.DID(fmt.Sprint("did:mesh:", i)), "elsewhere"}] = &seat{hub: h.Hub, visits: map[*visit]struct{}{nil: {}}}
	}
	h.Hub.mu.Unlock()
	resp := postman{t: t, h: h, token: token}.do(http.MethodPost, hello)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s, Retry-After %q; want 503 and when to come again", resp.Status, resp.Header.Get("Retry-After"))
	}
	h.Hub.mu.Lock()
	clear(h.Hub.seats)
	h.Hub.mu.Unlock()
	if resp = (postman{t: t, h: h, token: token}).do(http.MethodPost, hello); resp.StatusCode != http.StatusOK {
		t.Errorf("with room again: %s", resp.Status)
	}
}

// What does not fit is let go of with all the rest, and shown all the same.
func TestSoManyDefinitionsAreKeptAsTheyAreShown(t *testing.T) {
	h := newHall(t)
	one, err := ParseTool(json.RawMessage(fmt.Sprintf(rawTool, "one")))
	if err != nil {
		t.Fatal(err)
	}
	render := func(n int) Tool {
		binary.BigEndian.PutUint64(one.Digest[:], uint64(n))
		return h.render("up", one)
	}
	for i := range maxRendered {
		render(i)
	}
	if len(h.rendered) != maxRendered {
		t.Errorf("%d definitions are kept, want %d", len(h.rendered), maxRendered)
	}
	if shown := render(maxRendered); shown.Name != "up__one" || len(h.rendered) != 1 {
		t.Errorf("one more is shown as %q, and %d are kept", shown.Name, len(h.rendered))
	}
}

// A resource beyond the bound goes by a URI that names its server, and so is found again; a prompt beyond it is not.
func TestSoManyResourcesAndPromptsAreKnownByTheirServer(t *testing.T) {
	one := &face{source: NewUpstream("one", Command{}, nil)}
	f := &Front{faces: []*face{one}}
	list := func(method, item string) string {
		t.Helper()
		shown, err := f.route(one, method, json.RawMessage(item))
		if err != nil {
			t.Fatal(err)
		}
		return string(shown)
	}
	for i := range maxRoutes - 1 {
		list("resources/list", fmt.Sprintf(`{"uri":"a://%d"}`, i))
	}
	if shown := list("prompts/list", `{"name":"last"}`); shown != `{"name":"one__last"}` {
		t.Errorf("the last that is known: %s", shown)
	}
	if r, err := f.promptOf(t.Context(), "one__last"); err != nil || r.own != "last" || f.routed(fmt.Sprintf("a://%d", maxRoutes-2)) != one {
		t.Errorf("at the bound: %+v, %v", r, err)
	}
	if shown := list("resources/list", `{"uri":"a://more"}`); shown != `{"uri":"hypervisor:one/a://more"}` || f.routed("a://more") != nil {
		t.Errorf("a resource more: %s", shown)
	}
	if c, uri, err := f.resourceOf(t.Context(), "hypervisor:one/a://more"); err != nil || c != one || uri != "a://more" {
		t.Errorf("it is looked for at %q, %v", uri, err)
	}
	list("prompts/list", `{"name":"more"}`)
	if _, err := f.promptOf(t.Context(), "one__more"); err == nil || !strings.Contains(err.Error(), "no server lists a prompt") {
		t.Errorf("a prompt more: %v", err)
	}
}

func TestOneOfManyServersSaysSoMuchOfItsUse(t *testing.T) {
	f := &Front{}
	for name, n := range map[string]int{"fits": maxInstructions, "more": maxInstructions + 1} {
		u := NewUpstream(name, Command{}, nil)
		u.has.Instructions, u.tools = strings.Repeat("x", n), []Tool{}
		f.faces = append(f.faces, &face{source: u})
	}
	text, whole := f.Features().Instructions, strings.Repeat("x", maxInstructions)
	for _, want := range []string{"# fits\n" + whole, "# more\n" + whole + "…"} {
		if !slices.Contains(strings.Split(text, "\n\n"), want) {
			t.Errorf("%d bytes of instructions are without %.20s… of %d", len(text), want, len(want))
		}
	}
}

// However many watch them: what is bounded are the resources.
func TestSoManyResourcesOfOneServerAreSubscribedTo(t *testing.T) {
	b := newBoard(t, "ann", nil)
	u := readyAt(t, Endpoint{URL: b.at.URL})
	watches := make([]*watch, maxWatched+1)
	for i := range watches {
		watches[i] = &watch{fmt.Sprint("note://", i), func() {}}
		_, err := u.watch(t.Context(), watches[i])
		if i < maxWatched && err != nil {
			t.Fatal(err)
		}
		if i == maxWatched && (!errors.Is(err, errWatched) || !errors.Is(err, action.ErrNotDispatched) || !b.noted("+ "+watches[i].uri, 0)) {
			t.Errorf("one more: %v", err)
		}
	}
	if _, err := u.watch(t.Context(), &watch{watches[1].uri, func() {}}); err != nil {
		t.Errorf("one more who watches the same: %v", err)
	}
	if _, err := u.unwatch(t.Context(), watches[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := u.watch(t.Context(), watches[maxWatched]); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// What says why in more bytes than that is an HTTP error like any.
func TestSoMuchIsReadOfAnErrorOverHTTP(t *testing.T) {
	for more, want := range map[int]string{0: "it is full", 1: "it answered 400"} {
		u, _ := oddAt(t, func(w http.ResponseWriter, _ *http.Request, id, _ string) {
			w.WriteHeader(http.StatusBadRequest)
			text := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":"it is full"}}`, id)
			fmt.Fprintf(w, "%s%*s", text, maxErrorBytes-len(text)+more, "")
		})
		if _, err := u.Call(t.Context(), "odd", json.RawMessage(`{}`), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v, want %q", maxErrorBytes+more, err, want)
		}
	}
}
