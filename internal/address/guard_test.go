package address

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/agenthypervisor/hypervisor/action"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func yes() *bool { v := true; return &v }

// call makes one call of an address.
func call(t *testing.T, entries []Entry, opts *Options, at, args string) (answer, error) {
	t.Helper()
	b, err := NewBook(entries, opts)
	if err != nil {
		t.Fatal(err)
	}
	tool, err := b.Address(at)
	if err != nil {
		return answer{}, err
	}
	out, err := tool.Do(t.Context(), json.RawMessage(args))
	var a answer
	if out != nil {
		if err := json.Unmarshal(out, &a); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	}
	return a, err
}

// "no private ranges unless configured": of what can be connected to, only what is the public internet's, and what is said.
func TestAConnectionIsMadeToThePublicInternetAlone(t *testing.T) {
	for at, want := range map[string]bool{
		"192.88.98.1:443": true, "8.8.8.8:443": true, "[2606:4700::1111]:443": true, // public
		"127.0.0.1:80": false, "127.8.8.8:80": false, "[::1]:80": false, // this machine
		"0.0.0.0:80": false, "0.1.2.3:80": false, "[::]:80": false, // nobody, which is this machine too
		"10.0.0.1:80": false, "172.16.0.1:80": false, "172.31.255.255:80": false, "192.168.1.1:80": false, "[fd00::1]:80": false, // private
		"169.254.169.254:80": false, "[fe80::1]:80": false, "[fe80::1%lo]:80": false, "[fd00:ec2::254]:80": false, // link-local, clouds' metadata
		"100.64.0.1:80": false, "100.127.255.255:80": false, "100.100.100.200:80": false, // CGNAT, and the metadata of a cloud in it
		"224.0.0.1:80": false, "239.255.255.250:80": false, "[ff02::1]:80": false, "255.255.255.255:80": false, "240.0.0.1:80": false, // many, and reserved
		"[::ffff:127.0.0.1]:80": false, "[::ffff:10.0.0.1]:80": false, "[::ffff:8.8.8.8]:80": false, "[::127.0.0.1]:80": false, // an IPv4 address in IPv6
		"[2002:7f00:1::]:80": false, "[2002:a00:1::1]:80": false, "[64:ff9b::7f00:1]:80": false, "[64:ff9b:1::a00:1]:80": false, "[2001:0:1::1]:80": false, // 6to4, NAT64, Teredo
		"192.0.0.8:80": false, "192.0.2.1:80": false, "198.18.0.1:80": false, "198.51.100.1:80": false, "203.0.113.1:80": false, "[2001:db8::1]:80": false, "[5f00::1]:80": false, "[100::1]:80": false, // special
		"[fec0::1]:80": false, // site-local
	} {
		network := "tcp4"
		if strings.HasPrefix(at, "[") {
			network = "tcp6"
		}
		if err := guardOf(nil).Safe(network, at, nil); (err == nil) != want || err != nil && !isRefused(err) {
			t.Errorf("%s: %v", at, err)
		}
	}
	said := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")}
	for at, want := range map[string]bool{"10.1.2.3:80": true, "10.2.0.1:80": false, "127.0.0.1:80": false} {
		if err := guardOf(said).Safe("tcp4", at, nil); (err == nil) != want {
			t.Errorf("%s with %v: %v", at, said, err)
		}
	}
	for at, want := range map[string]bool{"[fd00:1::7]:80": true, "[fd00:2::7]:80": false, "[::ffff:10.1.2.3]:80": false} {
		if err := guardOf(said).Safe("tcp6", at, nil); (err == nil) != want {
			t.Errorf("%s with %v: %v", at, said, err)
		}
	}
	for _, network := range []string{"udp4", "unix", "ip4"} {
		if err := guardOf(nil).Safe(network, "8.8.8.8:53", nil); err == nil {
			t.Errorf("%s goes", network)
		}
	}
}

// The allowlist: what it does not cover is not called, whatever it is called.
func TestOnlyWhatTheAllowlistCoversIsCalled(t *testing.T) {
	b, err := NewBook([]Entry{{At: "https://deploy.example/v1/"}, {At: "https://deploy.example/v1/admin", Claim: action.Claim{Admin: yes()}}, {At: "http://127.0.0.1:9000/"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]bool{
		"https://deploy.example/v1/": true, "https://deploy.example/v1": true, "https://deploy.example/v1/east": true, "https://deploy.example/v1/?a=b": true, "http://127.0.0.1:9000/x": true,
		"https://deploy.example/v2/east": false, "https://deploy.example/v10": false, "https://deploy.example/": false, "http://deploy.example/v1/east": false, "https://deploy.example:8443/v1/east": false,
		"https://deploy.example.evil.example/v1/": false, "https://evil.example/https://deploy.example/v1/": false, "https://sub.deploy.example/v1/": false, "http://127.0.0.1/x": false, "http://127.0.0.2:9000/x": false, "http://localhost:9000/x": false,
		"https://deploy.example/v1/../v2": false, "https://deploy.example/v1/%2e%2e/v2": false, "https://deploy.example/v1/..%2fv2": false, "https://deploy.example@evil.example/v1/": false,
		"https://DEPLOY.example/v1/": false, "file:///etc/passwd": false, "gopher://deploy.example/v1/": false, "": false,
	} {
		_, err := b.Address(at)
		if (err == nil) != want || err != nil && !errors.Is(err, ErrNotAllowed) {
			t.Errorf("%s: %v", at, err)
		}
	}
	if d, err := b.Describe("https://deploy.example/v1/admin/x"); err != nil || !d.Admin || !d.Network || d.Execute != "POST https://deploy.example/v1/admin/x" {
		t.Errorf("the deepest entry speaks: %+v %v", d, err)
	}
}

// counted is a server that counts.
func counted(t *testing.T, handle http.HandlerFunc) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		handle(w, r)
	}))
	t.Cleanup(server.Close)
	return server, &n
}

// "checked after name resolution": an allowed name that leads to a private address leads nowhere, whatever it led to before.
func TestANameIsCheckedWhereItLeads(t *testing.T) {
	server, n := counted(t, func(http.ResponseWriter, *http.Request) {})
	port := server.URL[strings.LastIndexByte(server.URL, ':'):]
	names := resolver(t, netip.MustParseAddr("127.0.0.1"))
	at := "http://deploy.example" + port + "/"
	_, err := call(t, []Entry{{At: at}}, &Options{lookup: names}, at, `{}`)
	if !isRefused(err) || !errors.Is(err, action.ErrNotDispatched) || errors.Is(err, action.ErrUnreachable) || n.Load() != 0 {
		t.Errorf("%v, called %d times", err, n.Load())
	}
	for _, at := range []string{server.URL + "/", "http://localhost" + port + "/"} {
		if _, err := call(t, []Entry{{At: at}}, nil, at, `{}`); !isRefused(err) || n.Load() != 0 {
			t.Errorf("%s: %v, called %d times", at, err, n.Load())
		}
	}
	if _, err := call(t, []Entry{{At: at, Private: loopback}}, &Options{lookup: names}, at, `{}`); err != nil || n.Load() != 1 {
		t.Errorf("what is said to be private: %v, called %d times", err, n.Load())
	}
}

// resolver answers every question for an IPv4 address with one.
func resolver(t *testing.T, ip netip.Addr) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() { // ends with conn
		b := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			end := 12 + bytes.IndexByte(b[12:n], 0) + 5 // RFC 1035 §4.1: of the question
			out := append(bytes.Clone(b[:2]), 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0)
			out = append(out, b[12:end]...)
			if b[end-3] == 1 { // A
				out[7] = 1
				out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				out = append(out, ip.AsSlice()...)
			}
			if _, err := conn.WriteTo(out, from); err != nil {
				return
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
}

// "and on each redirect": where one leads is held to the allowlist and the guard as the first address was.
func TestARedirectIsCheckedAsTheFirstAddressWas(t *testing.T) {
	type seen struct{ path, key, auth, signature, body string }
	var got []seen
	note := func(r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = append(got, seen{r.Method + " " + r.URL.Path, r.Header.Get("Idempotency-Key"), r.Header.Get("Authorization"), r.Header.Get("Webhook-Signature"), string(b)})
	}
	other, _ := counted(t, func(_ http.ResponseWriter, r *http.Request) { note(r) })
	var to string
	status := http.StatusTemporaryRedirect
	first, n := counted(t, func(w http.ResponseWriter, r *http.Request) {
		note(r)
		if r.URL.Path == "/here" {
			return
		}
		w.Header().Set("Location", to)
		w.WriteHeader(status)
	})
	entry := Entry{At: first.URL + "/", Private: loopback, Headers: map[string]string{"Authorization": "Bearer x"}, Secret: make([]byte, 32)}
	entries := []Entry{entry, {At: other.URL + "/ok/", Private: loopback}, {At: "http://localhost" + other.URL[strings.LastIndexByte(other.URL, ':'):] + "/"}}
	for _, c := range []struct {
		to, fails string
		sent      int64
	}{
		{"/here", "", 2},
		{other.URL + "/ok/x", "", 1},
		{other.URL + "/elsewhere", "may not be called", 1},
		{"http://169.254.169.254/latest/meta-data/", "may not be called", 1},
		{entries[2].At, "prohibited IP", 1}, // allowed, and not to lie on this machine
		{strings.Replace(first.URL, "http:", "https:", 1) + "/here", "another scheme", 1},
		{"ftp://127.0.0.1/", "another scheme", 1},
		{"/again", "more than 5 times", 6},
		{"", "to nowhere", 1},
		{"http://a b/", "to nowhere", 1},
	} {
		got, to = nil, c.to
		n.Store(0)
		a, err := call(t, entries, nil, first.URL+"/from", `{"v":7}`)
		if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) || errors.Is(err, action.ErrUnknownOutcome) || n.Load() != c.sent {
			t.Errorf("to %q: %+v %v, %d times", c.to, a, err, n.Load())
		}
		for _, s := range got {
			own := !strings.HasPrefix(s.path, "POST /ok/")
			if !strings.HasPrefix(s.path, "POST ") || s.body != `{"v":7}` || (s.auth != "") != own || (s.signature != "") != own {
				t.Errorf("to %q: %+v", c.to, s)
			}
		}
	}
	for _, status = range []int{301, 302, 303} { // it may be the answer of what was done
		to = "/here"
		n.Store(0)
		if _, err := call(t, entries, nil, first.URL+"/from", `{}`); !errors.Is(err, action.ErrUnknownOutcome) || n.Load() != 1 {
			t.Errorf("%d: %v, %d times", status, err, n.Load())
		}
	}
}

// No proxy of the environment is asked: it would connect for us, unguarded.
func TestTheEnvironmentsProxyIsNotAsked(t *testing.T) {
	proxy, asked := counted(t, func(http.ResponseWriter, *http.Request) {})
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	b, err := NewBook([]Entry{{At: "http://deploy.example/"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if tr := b.transport(b.entries[0]); tr.Proxy != nil {
		t.Error("a proxy is asked")
	}
	if _, err := call(t, []Entry{{At: "http://deploy.example/"}}, &Options{lookup: resolver(t, netip.MustParseAddr("127.0.0.1"))}, "http://deploy.example/", `{}`); !isRefused(err) || asked.Load() != 0 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
}
