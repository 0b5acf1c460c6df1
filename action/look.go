package action

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxImageBytes bounds an image: what is larger cannot be put back.
const MaxImageBytes = 8 << 20

// A Look is how the resource that an action touches is read: before the action, after it, and before it is undone. Its tool
// only reads, which whoever configures it vouches for: it is called in the system's name.
type Look struct {
	Call
	Bytes    string   `json:"bytes"`              // template over args and result (of the look): the resource's bytes
	Encoding Encoding `json:"encoding,omitempty"` // how they stand there; empty: Text
	Absent   string   `json:"absent,omitempty"`   // a tool error whose text begins so says that nothing is there; empty: every error means that no image can be had
	Empty    *string  `json:"empty,omitempty"`    // bytes that say that nothing is there; nil: none do
}

// An Encoding says what a look's bytes are made of.
type Encoding string

// The encodings. The empty one is Text.
const (
	Text    Encoding = "text"    // the string's UTF-8
	Base64  Encoding = "base64"  // what the string encodes (RFC 4648 §4, padded)
	JSON    Encoding = "json"    // the value in canonical JSON
	Compare Encoding = "compare" // the same, of a value that need not be faithful: it is compared and never put back
)

// Encodings returns all there are.
func Encodings() []Encoding { return []Encoding{Text, Base64, JSON, Compare} }

// An Image is a resource as it read at one time.
type Image struct {
	Absent bool   // nothing was there
	Bytes  []byte // verbatim; nil if Absent
}

// Equal reports whether two images show the same.
func (i Image) Equal(other Image) bool {
	return i.Absent == other.Absent && bytes.Equal(i.Bytes, other.Bytes)
}

// An ImageState is what is known of an action's before-image. The zero value is NoImage.
type ImageState uint8

// The states.
const (
	NoImage     ImageState = iota // none was taken: the descriptor has no Look
	ImageTaken                    // faithfully
	ImageAbsent                   // nothing was there
	ImageFailed                   // it could not be taken faithfully, or could not be put back
)

// ErrImage is returned, wrapped with why, where no faithful image can be had.
var ErrImage = errors.New("no faithful image")

// A Result is what a tool answered, decoded once, before anything was neutralised in it.
type Result struct {
	Value  any    // what templates refer to: of MCP an object with content and structuredContent. Numbers are json.Number
	Failed bool   // the tool says that it failed
	Text   string // the text content of an MCP result, with line ends between its parts
}

// DecodeResult decodes a tool's result: one JSON value, UTF-8, no name twice, at most MaxDepth deep. It returns ErrImage
// otherwise, since what was read in two ways is not faithful.
func DecodeResult(text json.RawMessage) (Result, error) {
	value, err := decodeJSON(text)
	if err != nil {
		return Result{}, fmt.Errorf("%w: decoding a result: %w", ErrImage, err)
	}
	r := Result{Value: value}
	object, _ := value.(map[string]any)
	r.Failed, _ = object["isError"].(bool)
	content, _ := object["content"].([]any)
	var texts []string
	for _, c := range content {
		block, _ := c.(map[string]any)
		if text, ok := block["text"].(string); ok && block["type"] == "text" {
			texts = append(texts, text)
		}
	}
	r.Text = strings.Join(texts, "\n")
	return r, nil
}

// decodeJSON decodes one JSON value strictly, its numbers as json.Number.
func decodeJSON(text []byte) (any, error) {
	if nesting(text) > MaxDepth {
		return nil, errDepth
	}
	d := jsontext.NewDecoder(bytes.NewReader(text))
	value, err := decodeValue(d, func(literal string) (any, error) { return json.Number(literal), nil })
	if err != nil {
		return nil, err
	}
	return value, nothingMore(d)
}

// Read returns the image that the look's own result shows: faithful, or ErrImage. A text with U+FFFD in it is not faithful:
// that is what a server writes for bytes that were no UTF-8.
func (l Look) Read(args map[string]any, r Result) (Image, error) {
	if r.Failed {
		if l.Absent != "" && strings.HasPrefix(r.Text, l.Absent) {
			return Image{Absent: true}, nil
		}
		return Image{}, fmt.Errorf("%w: %s: %s", ErrImage, l.Tool, clipText(r.Text))
	}
	t, err := ParseTemplate(l.Bytes, InBytes)
	if err != nil {
		return Image{}, err
	}
	value, err := t.Value(Scope{Args: args, Result: &r})
	if err != nil {
		return Image{}, fmt.Errorf("%w: %s: %w", ErrImage, l.Tool, err)
	}
	b, err := l.Encoding.bytes(value)
	switch {
	case err != nil:
		return Image{}, fmt.Errorf("%w: %s: %w", ErrImage, l.Tool, err)
	case len(b) > MaxImageBytes:
		return Image{}, fmt.Errorf("%w: %s: larger than %d bytes", ErrImage, l.Tool, MaxImageBytes)
	case l.Empty != nil && string(b) == *l.Empty:
		return Image{Absent: true}, nil
	}
	return Image{Bytes: b}, nil
}

// bytes returns the bytes that a value stands for. The error says why it is not faithful.
func (e Encoding) bytes(value any) ([]byte, error) {
	if e == Compare {
		return appendCanonical([]byte{}, value)
	}
	if e == JSON {
		if err := faithful(value); err != nil {
			return nil, err
		}
		return appendCanonical([]byte{}, value)
	}
	text, ok := value.(string)
	if !ok {
		return nil, errors.New("it is not a string")
	}
	if e == Base64 {
		return base64.StdEncoding.Strict().DecodeString(text)
	}
	return []byte(text), faithful(text)
}

// faithful returns why a value cannot be trusted to be what is stored, or cannot be handed back as it is; nil: it can.
func faithful(value any) error {
	switch v := value.(type) {
	case string:
		if strings.ContainsRune(v, utf8.RuneError) {
			return errors.New("it has U+FFFD in it, which stands for bytes that are no text")
		}
	case json.Number:
		return exact(string(v))
	case []any:
		for _, e := range v {
			if err := faithful(e); err != nil {
				return err
			}
		}
	case map[string]any:
		for k, e := range v {
			if err := errors.Join(faithful(k), faithful(e)); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxSafe is the greatest whole number that a program with floats alone has read as it stands (RFC 7493 §2.2).
const maxSafe = 1<<53 - 1

// exact returns why a number would not arrive as it is if it were sent back as an argument; nil: it would.
func exact(literal string) error {
	n, err := decodeNumber(literal)
	if err != nil {
		return err
	}
	short, err := appendCanonical(nil, n)
	if err != nil {
		return err
	}
	if i, ok := n.(int64); ok && (i > maxSafe || i < -maxSafe) {
		return fmt.Errorf("the whole number %s is one that not every program reads as it is", literal)
	} else if _, ok := n.(uint64); ok {
		return fmt.Errorf("the whole number %s is one that not every program reads as it is", literal)
	}
	if e := exponent(literal); e <= maxExponent && e >= -maxExponent {
		was, ok := new(big.Rat).SetString(literal)
		is, alike := new(big.Rat).SetString(string(short))
		if ok && alike && was.Cmp(is) == 0 {
			return nil
		}
	}
	return fmt.Errorf("the number %s has more digits than can be carried exactly", clipText(literal))
}

// check returns what is wrong with the look; nil: nothing.
func (l *Look) check() error {
	switch {
	case l.Tool == "":
		return errors.New("image without a tool")
	case l.Bytes == "":
		return errors.New("image without bytes")
	case l.Encoding != "" && !slices.Contains(Encodings(), l.Encoding):
		return fmt.Errorf("encoding %q is not one of %v", l.Encoding, Encodings())
	}
	if _, err := ParseTemplate(l.Bytes, InBytes); err != nil {
		return err
	}
	return l.Check(InLook)
}
