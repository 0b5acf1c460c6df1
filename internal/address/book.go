package address

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"code.dny.dev/ssrf"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
)

// What an entry has that does not say otherwise, and the bounds of what it can say.
const (
	DefaultTimeout   = 30 * time.Second
	MostTimeout      = time.Hour
	DefaultMaxAnswer = 1 << 20  // bytes
	MostAnswer       = 16 << 20 // bytes
	maxHeader        = 64 << 10 // bytes of an answer's header
	maxRedirects     = 5
	mostRetryAfter   = 15 * time.Minute
)

// ErrNotAllowed is returned, wrapped with what is wrong, for an address that may not be called.
var ErrNotAllowed = errors.New("the address may not be called")

// Methods are those that an entry can have.
var Methods = []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodGet}

// An Entry allows an address and all beneath it.
type Entry struct {
	At        string            // an address; what lies beneath it by whole segments is of the entry too
	Method    string            // one of Methods; empty: POST
	Claim     action.Claim      // what kind of action its calls are; of an undo, an image and the like it says nothing
	Private   []netip.Prefix    // ranges beyond the public internet's that it may lie in
	Headers   map[string]string // sent with every call
	Secret    []byte            // that calls are signed with; nil: they are not signed
	Timeout   time.Duration     // of one call; zero: DefaultTimeout
	MaxAnswer int64             // bytes of an answer that are read; zero: DefaultMaxAnswer
}

// LogValue returns the entry without its secret and the values of its headers.
func (e Entry) LogValue() slog.Value {
	return slog.GroupValue(slog.String("at", e.At), slog.String("method", e.Method), slog.Any("headers", slices.Sorted(maps.Keys(e.Headers))), slog.Bool("signed", e.Secret != nil))
}

// A Book knows the addresses that may be called. The nil and the zero Book know none. It is not changed and safe for concurrent use.
type Book struct {
	opts    Options
	entries []*entry // the deepest first
}

// Options are what a Book can be told beside its entries. The zero value is what a daemon wants.
type Options struct {
	Now func() time.Time // signatures carry it; nil: the machine's clock
	// Carrier takes the requests, instead of connections of this machine's: whom it reaches no guard has looked at. For simulators. Nil:
	// there is none.
	Carrier Carrier

	client *http.Client   // whose TLS configuration is used, in tests
	lookup lookupOverride // in tests
}

// A Carrier takes requests to addresses.
type Carrier interface {
	// RoundTrip is http.RoundTripper's. It tells the request's httptrace.ClientTrace once something may have been sent.
	RoundTrip(r *http.Request) (*http.Response, error)
	// Reaches returns why nobody takes connections at an address; nil: somebody does.
	Reaches(ctx context.Context, address string) error
}

// An entry is an Entry with what its calls need.
type entry struct {
	Entry
	place string // At, as action.Under wants it
	guard *ssrf.Guardian
}

// NewBook returns a book. The error is action.ErrAddress for an entry whose address is not sound, and action.ErrDescriptor for one
// whose claim contradicts itself.
func NewBook(entries []Entry, opts *Options) (*Book, error) {
	b := &Book{}
	if opts != nil {
		b.opts = *opts
	}
	if b.opts.Now == nil {
		b.opts.Now = time.Now
	}
	for _, e := range entries {
		if err := action.CheckAddress(e.At); err != nil {
			return nil, err
		}
		if e.Method == "" {
			e.Method = http.MethodPost
		}
		if e.Timeout == 0 {
			e.Timeout = DefaultTimeout
		}
		if e.MaxAnswer == 0 {
			e.MaxAnswer = DefaultMaxAnswer
		}
		if !slices.Contains(Methods, e.Method) {
			return nil, fmt.Errorf("%w: %s with method %s", ErrNotAllowed, e.At, e.Method)
		}
		one := &entry{Entry: e, guard: guardOf(e.Private)}
		var err error
		if one.place, err = action.NormaliseResource(e.At); err != nil {
			return nil, err
		}
		if err := one.descriptor(e.At).Validate(); err != nil {
			return nil, err
		}
		b.entries = append(b.entries, one)
	}
	slices.SortStableFunc(b.entries, func(x, y *entry) int { return len(y.place) - len(x.place) })
	return b, nil
}

// guardOf returns what refuses to connect to anything but the public internet and some ranges.
func guardOf(private []netip.Prefix) *ssrf.Guardian {
	var v4, v6 []netip.Prefix
	for _, p := range private {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	return ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...)) // the port is the allowlist's
}

// find returns the deepest entry that covers an address, or ErrNotAllowed.
func (b *Book) find(address string) (*entry, error) {
	if err := action.CheckAddress(address); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotAllowed, err)
	}
	place, err := action.NormaliseResource(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotAllowed, err)
	}
	if b == nil {
		b = &Book{}
	}
	for _, e := range b.entries {
		if action.Under(place, e.place) {
			return e, nil
		}
	}
	return nil, fmt.Errorf("%w: %s is under none of addresses in the configuration", ErrNotAllowed, address)
}

// Places returns the addresses of the entries, sorted.
func (b *Book) Places() []string {
	if b == nil {
		return nil
	}
	places := make([]string, len(b.entries))
	for i, e := range b.entries {
		places[i] = e.At
	}
	slices.Sort(places)
	return places
}

// Describe returns as what action an address is called, or ErrNotAllowed.
func (b *Book) Describe(address string) (action.Descriptor, error) {
	e, err := b.find(address)
	if err != nil {
		return action.Descriptor{}, err
	}
	return e.descriptor(address), nil
}

// descriptor describes the action that an address of the entry is.
func (e *entry) descriptor(address string) action.Descriptor {
	d := action.Resolve(address, e.Claim)
	d.Network, d.Execute = true, e.Method+" "+address
	if place, err := action.NormaliseResource(address); err == nil {
		d.Resource = place
	}
	return d
}

// Address returns what calls an address; the error is ErrNotAllowed.
func (b *Book) Address(address string) (hypervisor.Tool, error) {
	e, err := b.find(address)
	if err != nil {
		return hypervisor.Tool{}, err
	}
	c := &caller{book: b, entry: e, address: address}
	return hypervisor.Tool{Descriptor: e.descriptor(address), Do: c.do, Check: c.check, Reaches: c.reaches}, nil
}

// check returns what is wrong with a call's arguments.
func (c *caller) check(args map[string]any) error {
	if c.entry.Method == http.MethodGet && len(args) > 0 {
		return fmt.Errorf("a GET sends nothing: say what is asked for in the address; got %s", strings.Join(slices.Sorted(maps.Keys(args)), ", "))
	}
	return nil
}
