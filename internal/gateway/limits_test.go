//go:build unix

package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

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
