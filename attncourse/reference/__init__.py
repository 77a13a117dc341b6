"""NumPy references: one module per mechanism, each the algorithm whose memory really falls.

What they share is stated here, once; a mechanism's docstrings say what it adds or does otherwise.

Sizes are B batch, H heads, G key/value heads, Tq queries, Tk keys, T new tokens, D the width of a
query or key, Dv that of a value. Shapes in round brackets are arrays in memory; "..." are leading
axes, such as (B, H).

attention(q, k, v, *, <knobs>, causal=False, scale=None) -> out
    q is (..., Tq, D), k (..., Tk, D), v (..., Tk, Dv): arrays of floating numbers, one dtype, the
    same leading axes, of which there may be none. D is at least 1, other sizes may be 0.

    causal: The last query is aligned with the last key: query i sits at key position i + Tk - Tq
        and, causal, sees no key after it. Queries before the first key see none.
    scale: Factor of the scores, a finite number; 1/√D if None. `linear` and `synthesizer` have
        none.
    knobs: Keyword-only. Counts are integers of Python or NumPy, flags True or False, not 1 or 0.

    out is (..., Tq, Dv) in the dtype of q. A query that sees no key gets zeros, never NaN.
    Arguments are never modified. "Memory" lists what is held beyond them and out; scores, tiles and
    sums are in float32 at least, for which float16 is widened.

    Grouped heads (`grouped` and the caches): q is (..., H, Tq, D), k (..., G, Tk, D) and v
    (..., G, Tk, Dv), where G divides H; or all three are plain matrices. Their costs take
    `groups`, G, which is H if None.

mask(n_queries, n_keys, *, <knobs>, causal=False) -> bool (Tq, Tk)
    Of mechanisms that are masks: True = may attend. `full.attention` under it equals `attention`.
    `count`, with the same arguments, is its number of True entries; the mask is not made.

cost(B, H, Tq, Tk, D, *, <knobs>, causal=False, dtype_bytes=4) -> Cost
    What `attention` takes at Dv = D, in exact integers; where knobs are arrays or functions, their
    sizes. dtype_bytes is one number of q, k, v and out. The conventions are those of
    `attncourse.cost`: FLOPs count the products as they are multiplied, hidden pairs included; the
    scores of a block or tile stay in cache and are no traffic; the peak includes out, not q, k, v.

step(state, q, k, v, *, scale=None) -> (out, state)
    Causal attention, continued: q, k and v are those of the next T tokens, (..., T, D) and
    (..., T, Dv), T as many as one likes. More queries than keys are refused, and the state is as
    before. `start(k, v, *, <knobs>)` gives the first state, for tokens shaped and typed as k and v;
    in `linear` it is None. The caches of `kv_cache` and `paged` have both halves of a step:
    `append(k, v)` puts tokens at the end, `attend(q, *, causal, scale=None)` lets queries see all
    that is there; causal, they are its last T tokens.

backward(grad_out, q, k, v, *, <arguments of attention>) -> (dq, dk, dv)
    Gradients of a loss with respect to q, k and v, shaped and typed as these; grad_out,
    (..., Tq, Dv), is its gradient with respect to out.

Errors name function, argument, what was expected and what came: `window.attention: window must be
at least 0, got -3`. TypeError: what is no array, numbers that are not floating, a count that is no
integer, a flag that is no bool, a scale that is no number. ValueError: shapes or dtypes that do
not fit, a count out of its range or above 2⁶³ - 1, a scale that is not finite, `causal` where a
mechanism cannot be.

What is not finite never reaches a row that may not attend to it: a query with NaN or infinity
spoils its own row, a NaN in a key and a NaN or infinity in a value the rows that may attend to
them, whatever the blocks and tiles.
"""
