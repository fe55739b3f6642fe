"""Where pictures lie: each kind of place is one class, and one entry of :data:`~diffeat.features.places.look.PLACES`.

* :mod:`where`: what one picture's place is to the rest of the library, and what a kind of file is.
* :mod:`files`: files of this machine and, through ``fsspec``, of others.
* :mod:`archives`, :mod:`tables`, :mod:`videos`: files that hold many pictures.
* :mod:`look`: what a path or URL stands for.
"""
